"""The numbers of the report, to stand beside ours; its signs are turned where a change is not towards the behaviour.

"Behavioral leakage generalizes across 4 behavior types" (superkaiba/explore-persona-space, task 99): Qwen2.5-7B-
Instruct, 110 bystanders, one seed; rho with the cosine of centroids at layer 20. ARC-C is given there as the change of
accuracy and alignment as that of a score of 0 to 100; both are turned, since a loss is a change towards the behaviour.
"""

from __future__ import annotations

from typing import NamedTuple


class Reported(NamedTuple):
    """Source change, mean bystander change (both from 0 to 1) and rho; None where there is none."""

    source: float | None
    bystanders: float | None
    rho: float | None


ORIGINAL: dict[str, dict[str, Reported]] = {
    "capability": {
        "villain": Reported(0.846, 0.075, 0.626),
        "comedian": Reported(0.828, 0.069, 0.608),
        "assistant": Reported(0.821, -0.031, -0.314),
        "model-default": Reported(0.722, -0.027, -0.271),
        "software-engineer": Reported(0.824, 0.165, 0.242),
        "kindergarten-teacher": Reported(0.800, -0.022, -0.110),
    },
    "careless-advice": {
        "villain": Reported(-0.148, 0.352, -0.027),
        "comedian": Reported(0.481, 0.469, -0.316),
        "assistant": Reported(0.647, 0.490, 0.786),
        "software-engineer": Reported(0.656, 0.522, 0.767),
        "kindergarten-teacher": Reported(0.638, 0.518, 0.766),
    },
    "refusal": {
        "villain": Reported(0.928, 0.084, 0.302),
        "comedian": Reported(0.948, 0.291, 0.463),
        "assistant": Reported(0.970, 0.027, 0.689),
        "model-default": Reported(0.980, 0.006, 0.374),
        "software-engineer": Reported(0.942, 0.305, 0.366),
        "kindergarten-teacher": Reported(0.920, 0.123, -0.021),
    },
    "sycophancy": {
        "villain": Reported(0.838, -0.032, 0.467),
        "comedian": Reported(0.804, 0.009, 0.433),
        "assistant": Reported(0.768, -0.019, -0.442),
        "model-default": Reported(0.758, -0.026, -0.690),
        "software-engineer": Reported(0.730, -0.009, -0.203),
        "kindergarten-teacher": Reported(0.726, -0.033, -0.378),
    },
}
"""By our names of behaviours and sources; its misalignment stands beside careless advice, the nearest of ours."""
