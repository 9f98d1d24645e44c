"""One prompt of a quick look."""

from __future__ import annotations

from dataclasses import dataclass

from leakmech.datasets.samples import Condition


@dataclass(frozen=True)
class PromptAnswers:
    """What is known of one prompt beside its answers.

    Attributes
    ----------
    injection
        The sentence before the stem; None for the control prompt.
    polarity
        What the estimator says of the injection.
    injected_valence
        P[positive] - P[negative] of the injection, in [-1, 1].
    tilt
        In nats a token times valence; None where the stem has none.
    """

    injection: str | None
    polarity: Condition
    injected_valence: float | None
    tilt: float | None

    @property
    def name(self) -> str:
        """The injection in quotes, or ``control``."""
        return "control" if self.injection is None else f'"{self.injection}"'
