"""What every stage of a diagnosis works with: the model, the samples, and the run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leakmech.core.errors import GenerationError
from leakmech.core.progress import Progress
from leakmech.core.store import atomic_path, read_json, write_json, write_text
from leakmech.datasets.samples import PromptSet
from leakmech.mechanism.attribution.pairs import Continuations, Pair, make_pairs
from leakmech.mechanism.attribution.targets import ContinuationTarget, DirectionTarget, Target
from leakmech.mechanism.behaviour import sample_behaviour
from leakmech.mechanism.bridge import BridgedModel
from leakmech.mechanism.directions.direction import Direction, load_direction
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Prompting, Renderer
from leakmech.studies.diagnosis.settings import Backend, DiagnoseConfig

Fragment = dict[str, Any]
READ_BY: dict[Backend, str] = {
    "hf": "hf",
    "transformer-lens": "transformer-lens for activations, direct attribution and magnitudes; hf for all else",
}
"""What a summary says of the backend: gradients, patching, attention and generation need the plain modules."""


@dataclass(frozen=True, eq=False)
class Workbench:
    """One diagnosis with everything loaded."""

    config: DiagnoseConfig
    out: Path
    loaded: LoadedModel
    splits: dict[str, PromptSet]
    progress: Progress

    @cached_property
    def layout(self) -> Layout:
        return layout_of(self.loaded.model)

    @cached_property
    def reading(self) -> LoadedModel:
        """The model whose activations are read, by the configured backend; all else is done with `loaded`."""
        return self.loaded if self.config.backend == "hf" else BridgedModel.of(self.loaded)

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer(self.loaded.tokenizer, self.prompting)

    @property
    def prompting(self) -> Prompting:
        """How samples become prompts."""
        return Prompting.of(self.config)

    @property
    def target_layer(self) -> int:
        """Layer of the target direction."""
        return self.layout.n_layers - 1 if self.config.target_layer is None else self.config.target_layer

    @property
    def running(self) -> dict[str, Any]:
        """Batch size and progress, for functions that take finished pairs."""
        return {"batch_size": self.config.batch_size, "progress": self.progress}

    # -- samples -----------------------------------------------------------------------------------------------------

    @cached_property
    def exact(self) -> PromptSet:
        """The first samples of the data set, on which what is slow is done."""
        return self.splits["test"].take(self.config.exact_samples)

    def continuations(self, name: str) -> Continuations:
        """The model's own continuations for ``tune`` or ``test``; sampled once, kept in the run.

        Raises
        ------
        GenerationError
            The model has none of its own.
        """
        path = self.out / "stages" / f"continuations-{name}.json"
        if not path.exists():
            try:
                found: Any = sample_behaviour(
                    self.loaded,
                    self.splits[name],
                    renderer=self.renderer,
                    n=self.config.continuations,
                    seed=self.config.seed,
                    progress=self.progress,
                )
            except GenerationError as error:
                found = {"none": str(error)}
            write_json(path, found)
        stored = read_json(path)
        if "none" in stored:
            raise GenerationError(stored["none"])
        return stored

    def pairs(self, samples: PromptSet, target: Target, *, split: str, equalised: bool = False) -> list[Pair]:
        """Pairs of samples of a split, for a target."""
        continuations = self.continuations(split) if target.name == "behaviour" else None
        return make_pairs(samples, self.renderer, continuations=continuations, equalised=equalised)

    # -- results of earlier stages -----------------------------------------------------------------------------------

    @cached_property
    def direction(self) -> Direction:
        """The target direction."""
        return load_direction(self.out / "directions" / "target.json", model_hash=self.loaded.weights_hash)

    def target(self, name: str | None = None) -> Target:
        """The target of that name; the configured one for None."""
        name = name or self.config.target
        return (
            DirectionTarget.of(self.direction, self.loaded)
            if name == "direction"
            else ContinuationTarget.of(self.loaded)
        )

    def save_scores(self, name: str, **arrays: np.ndarray) -> None:
        """Keep score arrays for later stages."""
        with atomic_path(self.out / "stages" / f"{name}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType] - names are our own

    def scores(self, name: str) -> dict[str, np.ndarray]:
        """What :meth:`save_scores` kept."""
        with np.load(self.out / "stages" / f"{name}.npz", allow_pickle=False) as stored:
            return dict(stored)

    def save_table(self, name: str, frames: pd.DataFrame | Sequence[pd.DataFrame]) -> None:
        """Write ``tables/<name>.csv``."""
        frame = frames if isinstance(frames, pd.DataFrame) else pd.concat(list(frames), ignore_index=True)
        write_text(self.out / "tables" / f"{name}.csv", frame.to_csv(index=False))

    def table(self, name: str) -> pd.DataFrame:
        """Read ``tables/<name>.csv``."""
        return pd.read_csv(self.out / "tables" / f"{name}.csv")

    def stage(self, name: str, work: Callable[[Workbench], Fragment]) -> Fragment:
        """The part of the summary that a stage finds; a finished stage is not done again."""
        path = self.out / "stages" / f"{name}.json"
        if not path.exists():
            write_json(path, work(self))
        return read_json(path)
