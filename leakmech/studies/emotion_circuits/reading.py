"""Activations of events under six commands: streams of every group, and means of heads and neurons.

Read is the last token of the prompt, as in the original, and with `replies` also the mean over the tokens of the reply,
and of those from the k-th on, which say less about how a reply opens.

Streams are kept whole, since directions are fitted by group and theme. Of heads and neurons only the mean over groups
is kept, so that memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from leakmech.core.errors import DatasetError
from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.emotions import EMOTIONS
from leakmech.mechanism.activations.labelled import LabelledText, read_labelled
from leakmech.models.load import LoadedModel
from leakmech.studies.emotion_circuits.elicitation import Asked, Reply

STREAMS = ("resid_mid", "resid_post")
"""After attention and after the MLP of a layer."""
COMPONENTS = ("z", "mlp_post")
"""What heads and neurons write from."""
_EVENTS = 12
"""Groups that are read at a time."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model holds in prompts that differ in the command."""

    events: tuple[str, ...]
    themes: tuple[str, ...]
    streams: Mapping[str, Float[np.ndarray, "group emotion layer d_model"]]
    """By site."""
    means: Mapping[str, Float[np.ndarray, "emotion layer width"]]
    """Mean over groups of heads' outputs z (heads side by side) and of neurons, by site."""

    @property
    def changes(self) -> dict[str, Float[np.ndarray, "emotion layer width"]]:
        """What each command adds to heads and neurons: means minus their mean over emotions."""
        return {site: changes_of(own) for site, own in self.means.items()}

    def of(self, site: str, layer: int) -> Float[np.ndarray, "group emotion d_model"]:
        """The stream of one layer."""
        return self.streams[site][:, :, layer].astype(np.float64)


def changes_of(means: Float[np.ndarray, "emotion layer width"]) -> Float[np.ndarray, "emotion layer width"]:
    """What each command adds to means under the six commands."""
    return means - means.mean(axis=0)


def read_groups(
    loaded: LoadedModel,
    asked: Sequence[Asked],
    *,
    replies: Sequence[Reply] | None = None,
    late: int = 0,
    streams: Sequence[str] = STREAMS,
    components: Sequence[str] = COMPONENTS,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> dict[str, Reading]:
    """Read every event under the six commands, by what is read of it, in one pass.

    ``last`` is the last token of the prompt. With `replies`, one for each of `asked`, ``reply`` is the mean over the
    tokens of the reply and ``late`` that without its first `late` tokens; events with a reply that is too short are
    left out there, and where that is all of them there is no such reading.

    Raises
    ------
    DatasetError
        An event lacks a command.
    """
    said = {reply.id: reply.tokens for reply in replies or ()}
    firsts = {"last": -1} | ({} if replies is None else {"reply": 0, "late": late})
    groups = _by_event(asked)
    collected = {name: _Collected() for name in firsts}
    events = list(groups)
    with progress("reading groups", total=len(events), done=0) as advance:
        for start in range(0, len(events), _EVENTS):
            some = events[start : start + _EVENTS]
            own = [groups[event][emotion] for event in some for emotion in EMOTIONS]
            texts = [_text(one, said.get(one.id, ()), firsts) for one in own]
            values = read_labelled(loaded, texts, sites=[*streams, *components], batch_size=batch_size)
            lengths = np.array([len(said.get(one.id, ())) for one in own]).reshape(len(some), len(EMOTIONS))
            for span, (name, first) in enumerate(firsts.items()):
                long = np.array([min(own_lengths) > first for own_lengths in lengths.tolist()])
                shaped = {
                    site: part[:, span].reshape(len(some), len(EMOTIONS), *part.shape[2:])[long]
                    for site, part in values.items()
                }
                kept = [event for event, there in zip(some, long.tolist(), strict=True) if there]
                collected[name].add(kept, shaped, streams=streams, components=components)
            advance(len(some))
    themes = {event: own[EMOTIONS[0]].theme for event, own in groups.items()}
    return {name: own.reading(themes) for name, own in collected.items() if own.events}


def _by_event(asked: Sequence[Asked]) -> dict[str, dict[str, Asked]]:
    groups: dict[str, dict[str, Asked]] = {}
    for own in asked:
        if own.emotion is not None:
            groups.setdefault(own.event, {})[own.emotion] = own
    for event, own in groups.items():
        if lacking := [emotion for emotion in EMOTIONS if emotion not in own]:
            raise DatasetError(f"event {event!r}: there is no prompt that commands {', '.join(lacking)}")
    return groups


def _text(asked: Asked, said: Sequence[int], firsts: Mapping[str, int]) -> LabelledText:
    """A prompt and its reply, with the spans that are read; a reply that is too short lends its last token."""
    n, whole = len(asked.ids), (*asked.ids, *said)
    spans = [
        (n - 1, n) if first < 0 else (min(n + first, len(whole) - 1), len(whole)) for first in firsts.values()
    ]  # fmt: skip
    return LabelledText(asked.id, whole, tuple(spans))


class _Collected:
    """Groups so far: streams whole, of heads and neurons the sum."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._streams: dict[str, list[np.ndarray]] = {}
        self._sums: dict[str, np.ndarray] = {}

    def add(
        self,
        events: Sequence[str],
        values: Mapping[str, np.ndarray],
        *,
        streams: Sequence[str],
        components: Sequence[str],
    ) -> None:
        self.events += events
        for site in streams:
            self._streams.setdefault(site, []).append(values[site])
        for site in components:
            total = values[site].astype(np.float64).sum(axis=0)
            self._sums[site] = self._sums[site] + total if site in self._sums else total

    def reading(self, themes: Mapping[str, str]) -> Reading:
        return Reading(
            tuple(self.events), tuple(themes[event] for event in self.events),
            {site: np.concatenate(parts) for site, parts in self._streams.items()},
            {site: own / len(self.events) for site, own in self._sums.items()},
        )  # fmt: skip
