"""What every stage of a diagnosis works with: the model, the samples, and the run directory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from leakmech.core.errors import GenerationError
from leakmech.core.progress import Progress
from leakmech.datasets.samples import PromptSet
from leakmech.mechanism.attribution.pairs import (
    CONTRASTS,
    TILT_CONTRASTS,
    Continuations,
    Endings,
    Pair,
    make_pairs,
    polar_endings,
)
from leakmech.mechanism.attribution.targets import ContinuationTarget, DirectionTarget, Target
from leakmech.mechanism.behaviour import sample_behaviour
from leakmech.mechanism.bridge import BridgedModel
from leakmech.mechanism.completions import Completion, sample_completions, tilt_endings, without_tilt
from leakmech.mechanism.directions.direction import Direction, load_direction
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Prompting, Renderer
from leakmech.runs.run import Run
from leakmech.scoring.expression import load_estimator
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
    def ranked(self) -> PromptSet:
        """The samples of ``tune`` on which components are ranked."""
        return self._scored("tune")

    @cached_property
    def reported(self) -> PromptSet:
        """The samples of ``test`` on which the target is reported."""
        return self._scored("test")

    @cached_property
    def exact(self) -> PromptSet:
        """The first of these, on which what is slow is done."""
        return self.reported.take(self.config.exact_samples)

    def _scored(self, split: str) -> PromptSet:
        """All samples of a split; for tilt the first ones, without those that have none."""
        if self.config.target != "tilt":
            return self.splits[split]
        completions = self.completions(split)
        left_out = without_tilt(completions)
        kept = tuple(s for s in self.splits[split] if s.id in completions and s.id not in left_out)
        if not kept:
            tilt_endings(completions)  # refuses, with the reasons
        return PromptSet(self.splits[split].name, kept)

    def completions(self, split: str) -> dict[str, list[Completion]]:
        """What the base model says after the control prompts of a split; sampled once, kept in the run."""
        stored = self.run.part(f"tilt-{split}", lambda: self._complete(split))
        return {
            sample: [Completion(own["text"], tuple(own["tokens"]), own["valence"]) for own in completions]
            for sample, completions in stored.items()
        }

    def _complete(self, split: str) -> dict[str, Any]:
        c = self.config
        found = sample_completions(
            self.loaded,
            self.splits[split].take(c.tilt_samples),
            renderer=self.renderer,
            judge=load_estimator(c.estimator),
            n=c.tilt_completions,
            seed=c.seed,
            progress=self.progress,
        )
        return {sample: [vars(completion) for completion in own] for sample, own in found.items()}

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

    def pairs(
        self, samples: PromptSet, target: Target, *, split: str, equalised: bool = False, few: bool = False
    ) -> list[Pair]:
        """Pairs of samples of a split, for a target; `few` takes the completions of most extreme valence only."""
        return make_pairs(
            samples,
            self.renderer,
            contrasts=TILT_CONTRASTS if target.name == "tilt" else CONTRASTS,
            endings=self.endings(target, split, few=few),
            equalised=equalised,
        )

    def endings(self, target: Target, split: str, *, few: bool = False) -> Endings | None:
        """The texts that a target scores after the prompts of a split, with their weights; a direction scores none."""
        if target.name == "tilt":
            extremes = self.config.exact_completions if few else None
            return tilt_endings(self.completions(split), extremes=extremes)
        return polar_endings(self.continuations(split)) if target.name == "behaviour" else None

    def save(self, name: str, frames: Any, *, samples: PromptSet | None = None, split: str = "test") -> None:
        """Write a table whose rows say on how many samples of which split they were computed."""
        frames = frames if isinstance(frames, list) else [frames]
        about: dict[str, Any] = {"split": split} | ({} if samples is None else {"n": len(samples)})
        self.run.save_table(name, [frame.assign(**about) for frame in frames])

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
            else ContinuationTarget.of(self.loaded, name)
        )
