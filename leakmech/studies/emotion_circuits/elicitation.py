"""Replies in a commanded emotion.

    chat     [system: Reply with anger, in at most two sentences.] [user: event] [assistant:
    plain    event / A reply that is full of anger: / "

The original commands in the system role. A model that does not do that may do the other (``rounds.md``): a plain text
goes on after the quotation mark, and a reply ends with the next one, or with its line.

A reply is *accepted* where a judge that is not told the command reads the commanded emotion in it. A *group* is one
event with its six replies; it is complete where all six are accepted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from leakmech.core.errors import ConfigError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.store import append_jsonl, mended_rows
from leakmech.datasets.emotions import EMOTIONS, Emotion
from leakmech.datasets.sev import VALENCES, Scenarios, Valence
from leakmech.generation.decode import Generation, Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.engine import generate
from leakmech.generation.hf_engine import HFEngine
from leakmech.interventions.base import Intervention
from leakmech.interventions.hooks import apply
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Prompting, Renderer
from leakmech.scoring.emotion_judges import EmotionJudge, judged

Wording = Literal["first", "second"]
WORDINGS: Mapping[Wording, Mapping[Emotion, str]] = {
    "first": {emotion: emotion for emotion in EMOTIONS},
    "second": {
        "anger": "fury",
        "sadness": "grief",
        "happiness": "joy",
        "fear": "terror",
        "surprise": "astonishment",
        "disgust": "revulsion",
    },
}
"""What an emotion is called in a command: what is fitted under one and holds under the other is not the word."""
COMMAND = "Reply with {}, in at most two sentences."
NO_COMMAND = "Reply in at most two sentences."
DECODING = Decoding(max_new_tokens=100, temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0)
"""Greedy, as in the original."""


CommandForm = Literal["chat", "plain"]
_PLAIN = '{event}\n\nA reply{full}:\n"'
_END = re.compile(r'["\n]')


@dataclass(frozen=True)
class Asked:
    """One event under one command, as the model reads it."""

    event: str
    """``<scenario>/<valence>``: the group."""
    theme: str
    valence: Valence
    emotion: Emotion | None
    """None: no emotion is commanded."""
    ids: tuple[int, ...]
    form: CommandForm = "chat"

    @property
    def id(self) -> str:
        return f"{self.event}/{self.emotion or 'none'}"


@dataclass(frozen=True)
class Reply:
    """What the model said."""

    id: str
    event: str
    theme: str
    valence: Valence
    emotion: Emotion | None
    text: str
    tokens: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def ask(
    loaded: LoadedModel,
    scenarios: Scenarios,
    emotions: Sequence[Emotion | None] = EMOTIONS,
    *,
    form: CommandForm = "chat",
    wording: Wording = "first",
) -> list[Asked]:
    """Render every event of every scenario under every command.

    Raises
    ------
    ConfigError
        In chat form: the model has no chat template, so that there is no system role.
    ModelError
        The template refuses the system role.
    """
    return [
        read(loaded, f"{own.id}/{valence}", own.text(valence), own.theme, valence, emotion, form, wording)
        for own in scenarios
        for valence in VALENCES
        for emotion in emotions
    ]


def read(
    loaded: LoadedModel,
    event: str,
    text: str,
    theme: str,
    valence: Valence,
    emotion: Emotion | None,
    form: CommandForm,
    wording: Wording = "first",
) -> Asked:
    """Render the `text` of one event under one command; raises as :func:`ask`."""
    called = WORDINGS[wording][emotion] if emotion else None
    if form == "plain":
        renderer = Renderer(loaded.tokenizer, Prompting("plain"))
        rendered = _PLAIN.format(event=text, full=f" that is full of {called}" if called else "")
    elif loaded.has_chat_template:
        renderer = Renderer(loaded.tokenizer, Prompting("chat", COMMAND.format(called) if called else NO_COMMAND))
        rendered = renderer.render(text)
    else:
        raise ConfigError(
            f"{loaded.name}: has no chat template, and emotions are commanded in the system role; use the plain form"
        )
    return Asked(event, theme, valence, emotion, tuple(renderer.token_ids(rendered)), form)


def elicit(
    loaded: LoadedModel,
    asked: Sequence[Asked],
    *,
    decoding: Decoding = DECODING,
    seed: int = 0,
    interventions: Sequence[Intervention] = (),
    file: Path | None = None,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
    label: str = "replies",
) -> list[Reply]:
    """Let the model reply, in the order of `asked`, under `interventions` if there are any.

    What stands in `file` is not asked again, and what is new goes there; it belongs to a run of this model and data.
    """
    by_id = {own.id: own for own in asked}
    stored = mended_rows(file) if file is not None else []
    known = {row["id"]: Reply(**{**row, "tokens": tuple(row["tokens"])}) for row in stored if row["id"] in by_id}

    def keep(ended: list[Generation]) -> None:
        new = [_reply(by_id[one.prompt_id], one, loaded.tokenizer) for one in ended]
        known.update({reply.id: reply for reply in new})
        if file is not None:
            append_jsonl(file, (reply.to_dict() for reply in new))

    missing = [Row(own.id, 0, own.ids) for own in asked if own.id not in known]
    if missing:
        with apply(loaded, interventions) if interventions else nullcontext() as applied:
            generate(
                HFEngine.of(loaded), missing, decoding, seed=seed, batch_size=batch_size, applied=applied, keep=keep,
                stop=_quotation_ended if asked[0].form == "plain" else None, progress=progress, label=label,
                n_before=len(asked) - len(missing),
            )  # fmt: skip
    return [known[own.id] for own in asked]


def _quotation_ended(_: str, text: str) -> bool:
    return _END.search(text) is not None


def _reply(asked: Asked, generation: Generation, tokenizer: Any) -> Reply:
    """The reply in a generation: in plain form what is said up to the end of quotation or line, and its tokens."""
    text, tokens = generation.text, generation.tokens
    if asked.form == "plain" and _END.search(text):
        text = _END.split(text)[0]
        n = next((n for n in range(1, len(tokens)) if _END.search(tokenizer.decode(tokens[:n]))), len(tokens))
        tokens = tokens[: n - 1]  # the token that ends the quotation is left out, with what else it may hold
    return Reply(asked.id, asked.event, asked.theme, asked.valence, asked.emotion, text.strip(), tokens)


def accepted(replies: Sequence[Reply], judge: EmotionJudge) -> list[bool]:
    """Whether a judge that does not know the command reads its emotion in each reply."""
    found = judged(judge([reply.text for reply in replies]))
    return [emotion == (reply.emotion or "neutral") for emotion, reply in zip(found, replies, strict=True)]


def groups(replies: Sequence[Reply], keep: Sequence[bool] | None = None) -> list[str]:
    """Events with a reply in each emotion, in their order; with `keep` those whose six replies are all kept."""
    found: dict[str, set[str]] = {}
    for reply, kept in zip(replies, [True] * len(replies) if keep is None else keep, strict=True):
        own = found.setdefault(reply.event, set())
        if kept and reply.emotion is not None:
            own.add(reply.emotion)
    return [event for event, emotions in found.items() if emotions == set(EMOTIONS)]
