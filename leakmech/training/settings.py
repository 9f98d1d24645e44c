"""Settings of ``leakmech train-lora``: what is trained on what, how, and what is watched meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from leakmech.core.errors import ConfigError, DatasetError
from leakmech.datasets.facts import FROZEN_FACTS
from leakmech.datasets.samples import POLARITIES, Polarity, dataset_file
from leakmech.generation.decoding import Decoding
from leakmech.runs.settings import (
    DecodingSettings,
    FormSettings,
    InstructionSettings,
    ModelSettings,
    Settings,
    Spelling,
)
from leakmech.training.kinds import OBJECTIVES, Padding, SetPoint, TrainedArrangement


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ObjectiveWeights(_Group):
    """Weight of every loss (:mod:`leakmech.training.objectives`); 0 leaves it out."""

    consistency_sft: float = Field(
        0.0, ge=0, description="weight of -log p of a control completion after the injected prompt"
    )
    sft: float = Field(
        0.0, ge=0, description="weight of -log p of the reference's completion after the prompt: all kinds of examples"
    )
    distillation: float = Field(
        0.0, ge=0, description="weight of the divergence from base on the control prompt: irrelevant examples"
    )
    teacher: float = Field(
        0.0, ge=0, description="weight of the divergence from base on what the teacher left: teacher examples"
    )
    activation_consistency: float = Field(
        0.0, ge=0, description="weight of the distance of hidden states from the control's: irrelevant examples"
    )
    anchor: float = Field(
        0.0,
        ge=0,
        description="weight of the divergence from base on the same prompt: relevant, neutral, plain examples",
    )
    contrastive: float = Field(0.0, ge=0, description="weight of distillation and anchor together")
    activation_contrastive: float = Field(
        0.0, ge=0, description="weight of the same on hidden states: all kinds of examples"
    )
    direction_penalty: float = Field(0.0, ge=0, description="weight of the squared projection on the directions")


class Shares(_Group):
    """How many examples of each kind, in proportion; 0 leaves a kind out."""

    irrelevant: float = Field(1.0, ge=0, description="share of affect that should not show")
    relevant: float = Field(0.0, ge=0, description="share of affect that should show")
    neutral: float = Field(0.0, ge=0, description="share of neutral injections, as an anchor")
    plain: float = Field(0.0, ge=0, description="share of prompts without an injection, as an anchor")
    facts: float = Field(0.0, ge=0, description="share of neutral facts that the stem asks for, as an anchor")
    teacher: float = Field(0.0, ge=0, description="share of prompts to answer as the leave-one-out teacher does")


class Components(_Group):
    """Adapters only where a diagnosis found heads and neurons that carry the leak."""

    diagnosis: str = Field(description="run directory with tables/heads.csv and tables/neurons.csv")
    heads: int = Field(20, ge=0, description="top heads whose layers get an adapter on their attention")
    neurons: int = Field(200, ge=0, description="top neurons whose layers get an adapter on their MLP")
    method: str | None = Field(None, description="which ranking, where the tables hold several")


class Steering(_Group):
    """Preventative steering: a direction that is added in training only."""

    direction: str = Field(description="saved direction at resid_pre or resid_post")
    strength: float = Field(1.0, description="strength in units of the direction's stream_norm")


class ClearPairs(_Group):
    """Leave out pairs that may or may not belong together (:mod:`leakmech.datasets.clear_pairs`)."""

    relevant: float = Field(0.2, ge=-1, le=1, description="least mean similarity of a stem and its own injections")
    irrelevant: float = Field(0.06, ge=0, le=1, description="most similarity of a stem and injections of other themes")
    encoder: str = Field("embedded", description="sentence encoder: embedded, hub id or folder")


class Tune(_Group):
    """Samples on which the adapter is judged while it is trained, by selectivity without fluency."""

    leakage: str = Field(description="data set or file: leakage that should fall (AEXL tune)")
    relevant: Annotated[tuple[str, ...], Spelling(repeated=True)] = Field(
        ("relevant-fit", "relevant-wide"), min_length=1, description="relevant affect that should stay, marked tune"
    )
    samples: int = Field(24, ge=3, description="samples of each set, and of mismatched ones where training has those")
    generations: int = Field(2, ge=1, description="generations per prompt")


class TrainingData(DecodingSettings, InstructionSettings, FormSettings):
    """What an adapter is trained on."""

    title: ClassVar[str] = "Training data"
    newer: ClassVar[Collection[str]] = ("paired", "arrangements", "facts", "shares.facts", "teacher", "shares.teacher")

    irrelevant: str | None = Field(None, description="data set whose injections should not show (AEXL fit)")
    relevant: Annotated[tuple[str, ...], Spelling(repeated=True)] = Field(
        (), description="data sets whose injections should show"
    )
    mismatched: int = Field(
        0, ge=0, description="times that stems of relevant samples are also paired with injections of other themes"
    )
    paired: bool = Field(
        False,
        description="only sentences that stand before a stem they are about and before one of another theme; both, and "
        "the second stem alone, go into one step",
    )
    arrangements: tuple[TrainedArrangement, ...] = Field(
        ("before",), min_length=1, description="where injections stand: before, middle, turn, after; each a part"
    )
    facts: str = Field("facts-fit", description="facts of which every other one is an anchor, if they have a share")
    teacher: float | None = Field(
        None, description="gain, in nats a token of the last sentence, under which the teacher leaves a sentence out"
    )
    clear_pairs: ClearPairs | None = Field(None, description="train and tune on clear pairs only; null: on all")
    relevant_pairs: bool = Field(False, description="also sentences that follow each other in the embedded archive")
    examples_file: str | None = Field(None, description="JSONL of finished examples, instead of data sets")
    evaluation: Annotated[tuple[str, ...], Spelling(repeated=True)] = Field(
        ("hexl",), description="data sets that training must share no text with"
    )
    max_overlap: float = Field(0.7, gt=0, le=1, description="shared words (Jaccard) from which texts count as one")
    polarities: tuple[Polarity, ...] = Field(POLARITIES, min_length=1, description="injections to train on")
    examples: int | None = Field(None, ge=1, description="number of examples; null takes as many as there are")
    shares: Shares = Field(default_factory=lambda: Shares.model_validate({}), description="of the kinds of examples")
    completions: int = Field(4, ge=1, description="different completions of one prompt, at most")
    decoding: Annotated[Decoding, Spelling(prefix="")] = Field(
        default_factory=lambda: Decoding(max_new_tokens=64), description="of completions"
    )
    generation_batch_size: int | str = Field("auto", description="rows that step together; auto fits them to memory")

    def refuse_missing(self) -> None:
        super().refuse_missing()
        for name in filter(None, (self.irrelevant, *self.relevant, *self.evaluation)):
            dataset_file(name)
        if self.examples_file is not None and not Path(self.examples_file).is_file():
            raise DatasetError(f"examples_file: {self.examples_file}: no such file")


class AdapterSettings(Settings):
    """The adapter's shape and place."""

    title: ClassVar[str] = "Adapter"
    newer: ClassVar[Collection[str]] = ("gate_bias",)

    rank: int = Field(8, ge=1, description="rank of the adapter's matrices")
    alpha: float = Field(16.0, gt=0, description="scale of the adapter: alpha / rank, with rslora alpha / sqrt(rank)")
    rslora: bool = Field(False, description="rank-stabilised scale (Kalajdzievski 2023)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the adapter's input")
    targets: str | tuple[str, ...] = Field("all-linear", description="all-linear, attention, mlp, or module names")
    layers: tuple[int, ...] | None = Field(None, description="layers that get an adapter; null: all")
    components: Components | None = Field(None, description="only where a diagnosis found carriers")
    gate_bias: float | None = Field(
        None,
        le=0,
        description="gives every rank a gate, read from the same token; its bias starts here (-3: 5 % open); null: no "
        "gate. A gated adapter cannot be merged",
    )


class LossSettings(Settings):
    """What training makes smaller."""

    title: ClassVar[str] = "Losses"
    newer: ClassVar[Collection[str]] = ("objectives.sft", "objectives.teacher")

    objectives: ObjectiveWeights = Field(
        default_factory=lambda: ObjectiveWeights.model_validate({"consistency_sft": 1.0}),
        description="weights of the losses",
    )
    total_variation: float = Field(
        0.0, ge=0, le=1, description="share of the steps, the last ones, with total variation instead of KL divergence"
    )
    activation_layers: tuple[int, ...] | None = Field(
        None, min_length=1, description="layers of the losses on activations; null: all"
    )
    directions: Annotated[tuple[str, ...], Spelling(repeated=True)] = Field(
        (), description="saved directions of the direction penalty"
    )
    set_point: SetPoint = Field("zero", description="where projections should be: zero, or the control's mean")
    steering: Steering | None = Field(None, description="preventative steering")


_MADE_OF_DATA = (
    "irrelevant", "relevant", "mismatched", "paired", "arrangements", "teacher", "relevant_pairs", "examples", "shares",
)  # fmt: skip
"""Settings without a meaning where examples are finished."""


def _default(config: BaseModel, name: str) -> Any:
    return type(config).model_fields[name].get_default(call_default_factory=True)


class LoraTrainingConfig(LossSettings, AdapterSettings, TrainingData, ModelSettings):
    """Everything that decides an adapter, and where and how fast it is trained."""

    command: ClassVar[str] = "train-lora"
    kind: ClassVar[str] = "train"
    place: ClassVar[Collection[str]] = ("device", "generation_batch_size", "keep_checkpoints")
    title: ClassVar[str] = "Training"

    dtype: Literal["auto", "float32", "bfloat16"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "auto", description="of the base model; the adapter is float32; auto takes bfloat16 where it is fast"
    )
    seed: int = Field(0, description="seed of completions, examples, order, adapter and dropout")
    learning_rate: float = Field(3e-4, gt=0, description="highest learning rate, after the warm-up")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    max_gradient_norm: float = Field(1.0, gt=0, description="length to which longer gradients are shortened")
    epochs: int = Field(2, ge=1, description="times that every example is seen")
    batch_size: int = Field(8, ge=1, description="examples that go through the model together, on each device")
    gradient_accumulation: int = Field(1, ge=1, description="batches a step, on each device")
    max_length: int = Field(512, ge=2, description="tokens of prompt and completion; longer completions are cut")
    padding: Padding = Field("left", description="side that is padded")
    gradient_checkpointing: bool = Field(False, description="compute activations again instead of keeping them")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="checkpoints that are kept, the best one aside")
    evaluate_every: int | None = Field(None, ge=1, description="steps between evaluations; null: once an epoch")
    tune: Tune | None = Field(None, description="what early stopping goes by; null: the last adapter is kept")
    patience: int = Field(3, ge=1, description="evaluations without a new best after which training stops")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Validate `values`.

        Raises
        ------
        ConfigError
            A key is unknown (the nearest valid one is named), a value is out of range, or settings contradict.
        """
        config = super().parse(values, where=where)
        config._refuse_contradictions(where)
        return config

    def _refuse_contradictions(self, where: str) -> None:
        weights = self.objectives.model_dump()
        active = [OBJECTIVES[name] for name, weight in weights.items() if weight > 0]
        if not active:
            raise ConfigError(f"{where}: objectives: none has a weight; give one of {', '.join(weights)}")
        if weights["direction_penalty"] > 0 and not self.directions:
            raise ConfigError(f"{where}: objectives.direction_penalty needs directions; name saved ones (directions)")
        if self.total_variation > 0 and not any(objective.compares_distributions for objective in active):
            comparing = [name for name, objective in OBJECTIVES.items() if objective.compares_distributions]
            raise ConfigError(
                f"{where}: total_variation is {self.total_variation:g}, but no objective with a weight compares "
                f"distributions; set it to 0, or give one of {', '.join(comparing)} a weight"
            )
        if self.facts == FROZEN_FACTS:
            raise ConfigError(f"{where}: facts: {FROZEN_FACTS} is kept for a last evaluation; train on facts-fit")
        if self.shares.teacher > 0 and self.teacher is None:
            raise ConfigError(f"{where}: shares.teacher needs the teacher's threshold; give 'teacher', such as 0.2")
        if self.paired and not (self.relevant and self.mismatched):
            raise ConfigError(
                f"{where}: paired needs relevant samples and mismatched of 1 or more: both sides of a pair"
            )
        if self.examples_file is not None:
            unused = [name for name in _MADE_OF_DATA if getattr(self, name) != _default(self, name)]
            if unused:
                raise ConfigError(
                    f"{where}: {unused[0]} says what examples are made of, and examples_file has finished ones; leave "
                    "one of them out"
                )
            return
        if not any(self.shares.model_dump().values()):
            raise ConfigError(f"{where}: shares: all are 0; give one of {', '.join(Shares.model_fields)} a share")
        used = {kind for objective in active for kind in objective.kinds}
        for kind, share in self.shares.model_dump().items():
            if share > 0 and kind not in used:
                raise ConfigError(
                    f"{where}: shares.{kind} is {share:g}, but no objective with a weight applies to {kind} examples; "
                    f"set it to 0, or give {'teacher' if kind == 'teacher' else 'anchor'!r} or 'contrastive' a weight"
                    if kind != "irrelevant"
                    else f"{where}: shares.irrelevant is {share:g}, but no objective with a weight applies to them"
                )
