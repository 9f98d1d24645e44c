"""Decoding settings, a value that needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from leakmech.core.errors import ConfigError


@dataclass(frozen=True)
class Decoding:
    """Decoding settings; the defaults are the paper's (temperature is not stated there).

    Parameters
    ----------
    max_new_tokens
        Upper bound on a generation's length in tokens.
    temperature
        0 means greedy decoding.
    top_k
        Number of candidates kept before top-p; 0 keeps the whole vocabulary.
    top_p
        Smallest set of candidates whose probability reaches this value.
    repetition_penalty
        Divides (multiplies, if negative) the logits of tokens in the prompt or the row so far (Keskar et al. 2019).
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 0.9
    repetition_penalty: float = 1.1

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
