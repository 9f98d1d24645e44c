"""What every stage of a diagnosis works with: the model, the samples, and the run directory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from leakmech.core.errors import GenerationError
from leakmech.core.progress import Progress
from leakmech.datasets.samples import PromptSet
from leakmech.mechanism.attribution.pairs import Continuations, Pair, make_pairs
from leakmech.mechanism.attribution.targets import ContinuationTarget, DirectionTarget, Target
from leakmech.mechanism.behaviour import sample_behaviour
from leakmech.mechanism.bridge import BridgedModel
from leakmech.mechanism.directions.direction import Direction, load_direction
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Prompting, Renderer
from leakmech.runs.run import Run
from leakmech.studies.diagnosis.settings import Backend, DiagnoseConfig

READ_BY: dict[Backend, str] = {
    "hf": "hf",
    "transformer-lens": "transformer-lens for activations, direct attribution and magnitudes; hf for all else",
}
"""What a summary says of the backend: gradients, patching, attention and generation need the plain modules."""


@dataclass(frozen=True, eq=False)
class Workbench:
    """One diagnosis with everything loaded."""

    config: DiagnoseConfig
    run: Run
    loaded: LoadedModel
    splits: dict[str, PromptSet]
    progress: Progress

    @cached_property
    def layout(self) -> Layout:
        return layout_of(self.loaded.model)

    @cached_property
    def reading(self) -> LoadedModel:
        """The model whose activations are read, by the configured backend; everything else is done with `loaded`."""
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

        Where the model has none of its own, the refusal is kept and raised again.
        """
        stored = self.run.part(f"continuations-{name}", lambda: self._sample(name))
        if "none" in stored:
            raise GenerationError(stored["none"])
        return stored

    def _sample(self, name: str) -> dict[str, Any]:
        try:
            return sample_behaviour(
                self.loaded,
                self.splits[name],
                renderer=self.renderer,
                n=self.config.continuations,
                seed=self.config.seed,
                progress=self.progress,
            )
        except GenerationError as error:
            return {"none": str(error)}

    def pairs(self, samples: PromptSet, target: Target, *, split: str, equalised: bool = False) -> list[Pair]:
        """Pairs of samples of a split, for a target."""
        continuations = self.continuations(split) if target.name == "behaviour" else None
        return make_pairs(samples, self.renderer, continuations=continuations, equalised=equalised)

    # -- results of earlier stages -----------------------------------------------------------------------------------

    @cached_property
    def direction(self) -> Direction:
        """The target direction."""
        return load_direction(self.run.path / "directions" / "target.json", model_hash=self.loaded.weights_hash)

    def target(self, name: str | None = None) -> Target:
        """The target of that name; the configured one for None."""
        name = name or self.config.target
        return (
            DirectionTarget.of(self.direction, self.loaded)
            if name == "direction"
            else ContinuationTarget.of(self.loaded)
        )
