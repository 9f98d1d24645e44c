"""Decoding settings, a value that needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from leakmech.core.errors import ConfigError
from leakmech.core.validation import described


@dataclass(frozen=True)
class Decoding:
    """Decoding settings; the defaults are the paper's (temperature is not stated there)."""

    max_new_tokens: int = described(128, "longest generation in tokens")
    temperature: float = described(1.0, "sampling temperature; 0 is greedy")
    top_k: int = described(50, "candidates kept before top-p; 0 keeps the whole vocabulary")
    top_p: float = described(0.9, "probability of the smallest set of candidates that is kept")
    repetition_penalty: float = described(
        1.1, "divides (multiplies, if negative) the logits of tokens so far (Keskar et al. 2019); 1 is none"
    )

    def __post_init__(self) -> None:
        for name, valid, wanted in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0, "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("repetition_penalty", self.repetition_penalty > 0, "positive"),
        ):
            if not valid:
                raise ConfigError(f"decoding: {name} must be {wanted}, found {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, float]:
        return asdict(self)
