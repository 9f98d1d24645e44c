"""Six emotions, and the words that name or voice them (``data/emotion_words.toml``; written by us, rated by nobody)."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from typing import Literal, get_args

from leakmech.core.text import normalised_words
from leakmech.datasets.english import data_text

Emotion = Literal["anger", "sadness", "happiness", "fear", "surprise", "disgust"]
EMOTIONS: tuple[Emotion, ...] = get_args(Emotion)
Kind = Literal["names", "signs"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@cache
def _patterns() -> dict[tuple[Emotion, Kind], re.Pattern[str]]:
    lists = tomllib.loads(data_text("emotion_words.toml"))
    return {
        (emotion, kind): re.compile("|".join(_pattern(word) for word in lists[emotion][kind].split()))
        for emotion in EMOTIONS
        for kind in KINDS
    }


def _pattern(word: str) -> str:
    return re.escape(word.removesuffix("*")) + (r"\w*" if word.endswith("*") else "")


def emotion_words(text: str, kind: Kind | None = None) -> list[tuple[str, Emotion]]:
    """Words of `text` that stand in a list, in their order, with the emotion; by default of both kinds of lists."""
    kinds = KINDS if kind is None else (kind,)
    return [
        (word, emotion)
        for word in normalised_words(text)
        for emotion in EMOTIONS
        if any(_patterns()[emotion, one].fullmatch(word) for one in kinds)
    ]
