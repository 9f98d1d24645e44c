"""Activations of events under six commands: streams of every group, and means of heads and neurons.

Read is the last token of the prompt, as in the original; or, with `replies`, the mean over the tokens of the reply from
the k-th on, which says less about how a reply opens.

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
_EVENTS = 24
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
        return {site: own - own.mean(axis=0) for site, own in self.means.items()}

    def of(self, site: str, layer: int) -> Float[np.ndarray, "group emotion d_model"]:
        """The stream of one layer."""
        return self.streams[site][:, :, layer].astype(np.float64)


def read_groups(
    loaded: LoadedModel,
    asked: Sequence[Asked],
    *,
    replies: Sequence[Reply] | None = None,
    first: int = 0,
    streams: Sequence[str] = STREAMS,
    components: Sequence[str] = COMPONENTS,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Reading:
    """Read every event under the six commands.

    With `replies`, one for each of `asked`, their tokens from number `first` on are read; events with a reply that is
    not longer are left out.

    Raises
    ------
    DatasetError
        An event lacks a command, or there is no event with six replies that are long enough.
    """
    said = {reply.id: reply.tokens for reply in replies or ()}
    groups: dict[str, dict[str, Asked]] = {}
    for own in asked:
        if own.emotion is not None:
            groups.setdefault(own.event, {})[own.emotion] = own
    for event, own in groups.items():
        if lacking := [emotion for emotion in EMOTIONS if emotion not in own]:
            raise DatasetError(f"event {event!r}: there is no prompt that commands {', '.join(lacking)}")
    events = [
        event
        for event, own in groups.items()
        if replies is None or all(len(said[one.id]) > first for one in own.values())
    ]
    if not events:
        raise DatasetError(f"emotion directions: no event has six replies of more than {first} tokens")
    found: dict[str, list[np.ndarray]] = {site: [] for site in streams}
    sums: dict[str, np.ndarray] = {}
    with progress("reading groups", total=len(events), done=0) as advance:
        for start in range(0, len(events), _EVENTS):
            some = events[start : start + _EVENTS]
            texts = [
                _text(groups[e][emotion], None if replies is None else said[groups[e][emotion].id], first)
                for e in some
                for emotion in EMOTIONS
            ]
            values = read_labelled(loaded, texts, sites=[*streams, *components], batch_size=batch_size)
            shaped = {site: own.reshape(len(some), len(EMOTIONS), *own.shape[1:]) for site, own in values.items()}
            for site in streams:
                found[site].append(shaped[site])
            for site in components:
                total = shaped[site].astype(np.float64).sum(axis=0)
                sums[site] = sums[site] + total if site in sums else total
            advance(len(some))
    themes = tuple(groups[event][EMOTIONS[0]].theme for event in events)
    return Reading(
        tuple(events), themes,
        {site: np.concatenate(parts) for site, parts in found.items()},
        {site: own / len(events) for site, own in sums.items()},
    )  # fmt: skip


def _text(asked: Asked, said: Sequence[int] | None, first: int) -> LabelledText:
    if said is None:
        return LabelledText.at_last(asked.id, asked.ids)
    whole = (*asked.ids, *said)
    return LabelledText(asked.id, whole, len(asked.ids) + first, len(whole))
