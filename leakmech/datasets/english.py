"""English word lists that decide which sentences can be used; they are in ``data/english.toml``."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources


@cache
def _lists() -> dict[str, str]:
    return tomllib.loads(data_text("english.toml"))


def word_list(name: str) -> frozenset[str]:
    """The words of a list, in lower case."""
    return frozenset(_lists()[name].split())


@cache
def blocked_hashes() -> frozenset[str]:
    """Hashes of profanity and slurs, so that nobody has to read the words."""
    return frozenset(line for line in data_text("blocked_words.txt").splitlines() if line and not line.startswith("#"))


def data_text(name: str) -> str:
    """The text of a file that ships in ``data/``."""
    return (resources.files("leakmech.datasets") / "data" / name).read_text(encoding="utf-8")
