"""Contrastive decoding: draw from a combination of what the model says after different versions of a prompt.

Let t be the prompt as it was given, r a reference prompt, and z, log p the logits and log-probabilities of the next
token y after each of them, all followed by the tokens that the row has drawn so far. With strength a >= 0:

``toward-reference``
    z(y) = z_t(y) + a (log p_r(y) - log p_t(y)).
    a = 0 is plain decoding, a = 1 decodes the reference, between them lies their geometric mixture, beyond 1 is
    context-aware decoding (Shi et al. 2023: (1 + b) z_r - b z_t) with b = a - 1 and the roles exchanged, so that
    context is suppressed and not amplified; also classifier-free guidance with a negative prompt (Sanchez et al. 2023,
    a = gamma).
``away-from-reference``
    z(y) = z_t(y) + a (log p_t(y) - log p_r(y)).
    Contrastive decoding (Li et al. 2022, in the form with a strength of O'Brien & Lewis 2023). The amateur is the same
    model reading the reference, for instance the context alone: tokens that the context suggests by itself lose.
``subtract-context``
    z(y) = z_t(y) - a (log p_r(y) - log p_empty(y)),  r: the context alone; empty: the request without any text.
    DExperts (Liu et al. 2021) with the model itself as expert (it reads nothing) and anti-expert (it reads the
    context). The context's effect by itself is taken out, its interaction with the sentence to complete stays.

The plausibility constraint (Li et al. 2022) then leaves only tokens with log p_e(y) >= log b + max log p_e, where e is
the expert: the reference in ``toward-reference``, else the prompt. It cuts what is unlikely whether or not anything is
contrasted, so its own effect must be told apart: the preset ``placebo`` is the constraint alone. At strength 0 the
prompt's own logits are returned as they are, without it. Repetition penalty, top-k and top-p follow as in plain
decoding, the penalty counting the prompt's and the row's tokens; adding log-ratios to the prompt's logits keeps the
offset on which that penalty depends, so that a small strength is a small change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from leakmech.core.errors import ConfigError, nearest
from leakmech.core.registry import Registry
from leakmech.core.validation import described
from leakmech.prompts.render import Prompt
from leakmech.prompts.told import Told, most_told
from leakmech.prompts.views import VIEWS, find_view

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

ContrastMethod = Literal["toward-reference", "away-from-reference", "subtract-context"]


@dataclass(frozen=True)
class Contrast:
    """A contrastive decoding rule; a :class:`~leakmech.generation.decode.LogitCombination`."""

    method: ContrastMethod = described("toward-reference", "formula of contrastive decoding")
    reference: str = described("last-sentence", "version of the prompt that is the reference")
    strength: float = described(1.0, "its strength; 0 is plain decoding")
    plausibility: float = described(0.1, "least probability of a token, relative to the likeliest; 0 is no constraint")

    def __post_init__(self) -> None:
        if self.method not in get_args(ContrastMethod):
            raise ConfigError(f"contrast: method {self.method!r}{nearest(self.method, get_args(ContrastMethod))}")
        if self.reference not in VIEWS:
            raise ConfigError(f"contrast: reference {self.reference!r}{nearest(self.reference, VIEWS)}")
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ConfigError(f"contrast: strength must be 0 (off) or more, found {self.strength!r}")
        if not 0 <= self.plausibility < 1:
            raise ConfigError(f"contrast: plausibility must be in [0, 1), found {self.plausibility!r}")

    @property
    def views(self) -> tuple[str, ...]:
        """Versions of the prompt that are read beside it, in the order of the references."""
        return (self.reference, "empty") if self.method == "subtract-context" else (self.reference,)

    @property
    def told(self) -> Told:
        """What its references are told beside the text of the prompt."""
        return most_told(VIEWS[view].told for view in self.views)

    @property
    def inserted(self) -> str:
        """What the references say and the prompt does not."""
        return " ".join(VIEWS[view].inserted for view in self.views if VIEWS[view].inserted)

    @property
    def n_references(self) -> int:
        return len(self.views)

    def bodies(self, prompt: Prompt) -> tuple[str, ...]:
        """Bodies of the references of `prompt`."""
        return tuple(find_view(view).body(prompt) for view in self.views)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __call__(
        self, logits: Float[Tensor, "rows vocab"], references: Sequence[Float[Tensor, "rows vocab"]]
    ) -> Float[Tensor, "rows vocab"]:
        """The logits to draw from; `logits` themselves at strength 0."""
        if self.strength == 0:
            return logits
        import torch  # here, so that settings that name a rule need no torch

        own = torch.log_softmax(logits, dim=1)
        first, *others = (torch.log_softmax(reference, dim=1) for reference in references)
        expert = first if self.method == "toward-reference" else own
        if self.method == "toward-reference":
            gain = first - own
        elif self.method == "away-from-reference":
            gain = own - first
        else:
            gain = others[0] - first
        combined = logits + self.strength * gain
        # A token that the model itself excludes (padded vocabulary) stays excluded: its log-ratio is not a number.
        combined = combined.masked_fill(logits == -torch.inf, -torch.inf)
        if self.plausibility > 0:
            threshold = expert.max(dim=1, keepdim=True).values + math.log(self.plausibility)
            combined = combined.masked_fill(expert < threshold, -torch.inf)
        return combined


CONTRASTS: Registry[Contrast] = Registry(
    "contrast",
    {
        "toward-last-sentence": Contrast("toward-reference", "last-sentence", 1.5),
        "toward-neutral": Contrast("toward-reference", "neutral-context", 1.5),
        "away-from-context": Contrast("away-from-reference", "context-only", 0.5),
        "subtract-context": Contrast("subtract-context", "context-only", 1.0),
        "placebo": Contrast("away-from-reference", "same", 1.0),
        "toward-control": Contrast("toward-reference", "control", 1.5),
    },
)
"""Named rules; ``placebo`` contrasts a prompt with itself, ``toward-control`` is an oracle."""


def named_contrast(value: Any) -> Any:
    """All settings of a :class:`Contrast`, from the name of a preset or from settings that may begin with a ``preset``.

    Values of other types are returned as they are.
    """
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, dict):
        return value
    settings = dict(value)
    preset = settings.pop("preset", None)
    return settings if preset is None else CONTRASTS.find(str(preset)).to_dict() | settings
