"""Settings of `diagnose`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from leakmech.datasets.samples import dataset_file
from leakmech.runs.settings import (
    AdaptedModelSettings,
    DataSettings,
    EstimatorSettings,
    FormSettings,
    InstructionSettings,
    StatisticsSettings,
)

Backend = Literal["hf", "transformer-lens"]

QUICK: dict[str, Any] = {
    "tilt_samples": 4, "judged_samples": 2, "judged_heads": (5,), "judged_neurons": (100,), "random_sets": 3,
    "sampled_sets": 0, "exact_samples": 1, "circuit_samples": 1, "integrated_steps": 2, "random_rankings": 2,
    "methods": ("difference_of_means",),
}  # fmt: skip
"""What ``quick`` takes of each."""
QUICK_SPLITS = {"fit": 8, "tune": 4, "test": 4}
"""The most that it takes of samples."""


class DiagnoseConfig(
    StatisticsSettings, EstimatorSettings, InstructionSettings, FormSettings, DataSettings, AdaptedModelSettings
):
    """Everything that decides the numbers of a diagnosis, and where it runs."""

    command: ClassVar[str] = "diagnose"
    kind: ClassVar[str] = "diagnose"
    newer: ClassVar[Collection[str]] = (
        "backend",
        "tilt_completions",
        "tilt_samples",
        "exact_completions",
        "judged_samples",
        "judged_heads",
        "judged_neurons",
        "random_sets",
        "sampled_sets",
        "sampled_samples",
        "sampled_generations",
        "quick",
    )
    title: ClassVar[str] = "Diagnosis"

    fit: str = Field(description="samples on which directions are fitted: built-in name, or a JSONL / CSV file")
    tune: str | None = Field(
        None, description="samples on which layers, methods and components are chosen; null: a part of the fit samples"
    )
    limit: int | None = Field(None, ge=3, description="use only the first N samples of the data set")
    target: Literal["tilt", "direction", "behaviour"] = Field(
        "tilt",
        description="what ranks and curves are about: tilt (odds between the model's own glad and sad completions), a "
        "direction, or behaviour (its answers after the injections)",
    )
    tilt_completions: int = Field(16, ge=5, description="completions of each control prompt, for tilt")
    tilt_samples: int = Field(30, ge=2, description="samples of tune and of test that tilt is measured on")
    exact_completions: int = Field(
        2, ge=2, description="of these the gladdest and saddest, where components are patched one by one or in sets"
    )
    judged_samples: int = Field(12, ge=2, description="test samples on which ranked and random sets are compared")
    judged_heads: tuple[int, ...] = Field((5, 20), description="sizes of the sets of heads that are judged")
    judged_neurons: tuple[int, ...] = Field((100, 500), description="sizes of the sets of neurons that are judged")
    random_sets: int = Field(99, ge=1, description="random sets of as many components per layer beside each")
    sampled_sets: int = Field(
        20, ge=0, description="random sets of heads that are also judged by sampled topic-free leakage; 0: none"
    )
    sampled_samples: int = Field(12, ge=2, description="test samples for that")
    sampled_generations: int = Field(4, ge=1, description="answers per prompt for that")
    target_layer: int | None = Field(None, ge=0, description="layer of the target direction; null: the last one")
    backend: Backend = Field("hf", description="reads activations: hf (faster), or transformer-lens on a copy")
    methods: tuple[str, ...] = Field(
        ("difference_of_means", "logistic", "pca", "two_means"), description="how directions are fitted"
    )
    estimator: str = Field("embedded", description="says which of the model's own sentences are positive")
    exact_samples: int = Field(8, ge=1, description="samples on which every head is patched exactly")
    circuit_samples: int = Field(16, ge=1, description="samples on which circuits are measured")
    continuations: int = Field(1, ge=1, description="own continuations per prompt for the behavioural target")
    integrated_steps: int = Field(8, ge=1, description="steps of integrated gradients")
    random_rankings: int = Field(5, ge=2, description="random rankings beside every circuit curve")
    top: int = Field(20, ge=1, description="heads in the headline circuit")
    quick: bool = Field(
        False, description="run everything on a few samples, sets and methods, to see it work: no measurement"
    )
    dtype: str = Field("float32", description="float32; in bfloat16 effects of single heads drown in rounding; or auto")
    batch_size: int | str = Field("auto", description="pairs of prompts that run together; auto goes by the device")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Validate `values`; see :meth:`Settings.parse`."""
        config = super().parse(values, where=where)
        return config.model_copy(update=QUICK) if config.quick else config

    def refuse_missing(self) -> None:
        super().refuse_missing()
        for name in filter(None, (self.fit, self.tune)):
            dataset_file(name)

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from leakmech.mechanism.directions.fits import METHODS  # here: it needs torch, settings do not

        for name in value:
            METHODS.find(name)
        return value
