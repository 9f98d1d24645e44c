"""What can be asked of a training, as values that need no torch.

There are kinds of examples (:mod:`leakmech.training.examples`) and named losses (:mod:`leakmech.training.objectives`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from leakmech.core.registry import Registry

ExampleKind = Literal["irrelevant", "relevant", "neutral", "plain", "facts", "teacher", "completion"]
KINDS: tuple[ExampleKind, ...] = get_args(ExampleKind)
_COMPARED: tuple[ExampleKind, ...] = tuple(kind for kind in KINDS if kind != "completion")
"""What the base model would say is known of these; a completion is somebody else's."""
TrainedArrangement = Literal["before", "middle", "turn", "after"]
"""Where injections may stand in training (:mod:`leakmech.prompts.arrangement`)."""
Padding = Literal["left", "right"]
ANCHORS: tuple[ExampleKind, ...] = ("relevant", "neutral", "plain", "facts")
SetPoint = Literal["zero", "control"]
Divergence = Literal["kl", "total_variation"]


@dataclass(frozen=True)
class Objective:
    """Which kinds of examples a loss applies to, and whether it reads logits or hidden states."""

    kinds: tuple[ExampleKind, ...]
    logits: bool = False
    hidden: bool = False
    reference: bool = False
    """Whether the base model must read the reference."""

    @property
    def compares_distributions(self) -> bool:
        """Say whether it is a divergence between the base model's next-token distributions and the student's."""
        return self.logits and self.reference


OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    {
        "consistency_sft": Objective(("irrelevant",), logits=True),
        "sft": Objective(KINDS, logits=True),
        "distillation": Objective(("irrelevant",), logits=True, reference=True),
        "teacher": Objective(("teacher",), logits=True, reference=True),
        "activation_consistency": Objective(("irrelevant",), hidden=True, reference=True),
        "anchor": Objective(ANCHORS, logits=True, reference=True),
        "contrastive": Objective(_COMPARED, logits=True, reference=True),
        "activation_contrastive": Objective(_COMPARED, hidden=True, reference=True),
        "direction_penalty": Objective(("irrelevant",), hidden=True),
    },
    unknown="objectives: unknown {name}",
)
