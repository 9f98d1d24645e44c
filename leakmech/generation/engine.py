"""The seam between what is asked for and what draws it: an engine completes rows of tokens.

An engine knows tokens, settings and addresses of draws. It knows no data set, no prompt form and no study. What it can
do is a value (:class:`~leakmech.generation.engines.Capabilities`), so that a run that needs more is refused before it
starts. The engine of this package is :class:`~leakmech.generation.hf_engine.HFEngine`; another one is one more file and
an entry in :data:`leakmech.generation.engines.ENGINES`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol

from leakmech.core.progress import Progress, no_progress
from leakmech.generation.decode import Clock, Generation, LogitCombination, Row, StopRule
from leakmech.generation.decoding import Decoding
from leakmech.generation.engines import Capabilities, incapable
from leakmech.interventions.applied import Applied
from leakmech.prompts.render import Prompt, Renderer


class Engine(Protocol):
    """Completes rows with one model; messages call it by its `name`."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def clock(self) -> Clock: ...

    def identity(self) -> dict[str, str]:
        """What of the engine decides draws, beside the model: a run is continued only under the same.

        Empty for the engine of this package, whose draws depend on model, settings and addresses only.
        """
        ...

    def auto_batch_size(self, *, longest_prompt: int, max_new_tokens: int, n_streams: int = 1) -> int:
        """Rows that it steps together by default; `n_streams` is the number of prompts that a row reads."""
        ...

    def complete(
        self,
        rows: Sequence[Row],
        decoding: Decoding,
        *,
        seed: int = 0,
        stop: StopRule | None = None,
        combination: LogitCombination | None = None,
        applied: Applied | None = None,
        batch_size: int | str = "auto",
        done: Collection[tuple[str, int]] = (),
    ) -> Iterator[list[Generation]]:
        """Complete `rows` and yield them as they end, in any order.

        `stop` ends a row early. Rows in `done` (prompt id, generation) are left out: an earlier call has finished them.
        """
        ...


def refuse_incapable(engine: Engine, needed: Capabilities) -> None:
    """Refuse a run that needs more than `engine` can do."""
    lacking = engine.capabilities.lacking(needed)
    if lacking:
        raise incapable(engine.name, lacking)


def prompt_rows(prompts: Iterable[Prompt], renderer: Renderer, generations: Sequence[int] = (0,)) -> list[Row]:
    """One row for each of the `generations` (their indices) of every prompt."""
    return [
        Row(prompt.id, index, tokens)
        for prompt in prompts
        for tokens in [tuple(renderer.token_ids(prompt.rendered))]
        for index in generations
    ]


def generate(
    engine: Engine,
    rows: Sequence[Row],
    decoding: Decoding,
    *,
    seed: int = 0,
    stop: StopRule | None = None,
    combination: LogitCombination | None = None,
    applied: Applied | None = None,
    batch_size: int | str = "auto",
    coupled: bool = False,
    keep: Callable[[list[Generation]], None] | None = None,
    progress: Progress = no_progress,
    label: str = "generating",
    n_before: int = 0,
) -> list[Generation]:
    """Complete all `rows` and return them in their order; `keep` is called with rows as they end, to store them.

    `coupled` asks for draws that depend on nothing but their address; `n_before` counts rows that are finished already.
    """
    needed = Capabilities(hooks=applied is not None, contrast=combination is not None, coupled_draws=coupled)
    refuse_incapable(engine, needed)
    made: dict[tuple[str, int], Generation] = {}
    finished = engine.complete(
        rows, decoding, seed=seed, stop=stop, combination=combination, applied=applied, batch_size=batch_size
    )
    with progress(label, total=n_before + len(rows), done=n_before) as advance:
        for ended in finished:
            if keep is not None:
                keep(ended)
            made |= {(generation.prompt_id, generation.generation): generation for generation in ended}
            advance(len(ended))
    return [made[row.prompt_id, row.generation] for row in rows]
