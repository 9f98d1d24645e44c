"""Decoding settings, a value that needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any, Literal

from leakmech.core.answers import Markers, parse_markers
from leakmech.core.errors import ConfigError
from leakmech.core.validation import described

NEWER = ("no_repeat_ngrams", "reasoning_tokens", "reasoning_markers")
"""Settings that earlier versions did not have."""


@dataclass(frozen=True)
class Decoding:
    """Decoding settings; the defaults are the paper's (temperature is not stated there).

    The temperature ``model`` is the checkpoint's own, which :meth:`resolved` puts in its place; nothing else is taken
    from the checkpoint.
    """

    max_new_tokens: int = described(128, "longest generation in tokens")
    temperature: float | Literal["model"] = described(
        1.0, "sampling temperature; 0 is greedy, model is the checkpoint's own"
    )
    top_k: int = described(50, "candidates kept before top-p; 0 keeps the whole vocabulary")
    top_p: float = described(0.9, "probability of the smallest set of candidates that is kept")
    repetition_penalty: float = described(
        1.1, "divides (multiplies, if negative) the logits of tokens so far (Keskar et al. 2019); 1 is none"
    )
    no_repeat_ngrams: int = described(
        0, "length of token sequences that may not occur twice in prompt and answer, as in transformers; 0 is none"
    )
    reasoning_tokens: int = described(
        1024, "longest reasoning in tokens, of a model that thinks before it answers; the answer is counted apart"
    )
    reasoning_markers: str = described(
        "", "what reasoning stands between, beside the common markers, as OPENING…CLOSING; several with spaces"
    )

    def __post_init__(self) -> None:
        temperature = 0.0 if self.temperature == "model" else self.temperature
        for name, valid, wanted in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            (
                "temperature",
                0 <= temperature < inf,
                "0 (greedy) or more, or 'model'",
            ),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("no_repeat_ngrams", self.no_repeat_ngrams >= 0, "0 (none) or more"),
            ("reasoning_tokens", self.reasoning_tokens >= 0, "0 or more"),
            ("repetition_penalty", 0 < self.repetition_penalty < inf, "positive"),
        ):
            if not valid:
                raise ConfigError(f"decoding: {name} must be {wanted}, found {getattr(self, name)!r}")
        parse_markers(self.reasoning_markers)

    @property
    def sampling_temperature(self) -> float:
        """The temperature as a number; refused while it is still the checkpoint's own."""
        if self.temperature == "model":
            raise ConfigError("decoding: temperature 'model' is not resolved; call decoding.resolved(model) first")
        return self.temperature

    def resolved(self, model: Any) -> Decoding:
        """The same settings with a number for the temperature ``model``; `model` is a Hugging Face model."""
        if self.temperature != "model":
            return self
        own = own_temperature(model)
        return replace(self, temperature=WITHOUT_OWN if own is None else own)

    @property
    def markers(self) -> Markers:
        """What reasoning stands between."""
        return parse_markers(self.reasoning_markers)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what earlier versions did not have is left out where it is as they had it."""
        newer = {name for name in NEWER if getattr(self, name) == getattr(type(self), name)}
        return {name: value for name, value in asdict(self).items() if name not in newer}


WITHOUT_OWN = 1.0
"""The temperature of a checkpoint that names none."""


def own_temperature(model: Any) -> float | None:
    """The temperature in a checkpoint's ``generation_config``; None if it names none."""
    own = getattr(getattr(model, "generation_config", None), "temperature", None)
    return None if own is None else float(own)


def described_temperature(decoding: Decoding, model: Any) -> dict[str, str]:
    """What a summary says of the temperature ``model``: where the number comes from; nothing for another one."""
    if decoding.temperature != "model":
        return {}
    own = own_temperature(model)
    return {
        "temperature_from": f"the model's generation_config names none: {WITHOUT_OWN:g}" if own is None else "model"
    }
