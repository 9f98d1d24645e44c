"""How much a benchmark run reads, draws and keeps, and how long that takes, before it starts. Counts are rough."""

from __future__ import annotations

from leakmech.datasets.samples import load_dataset
from leakmech.models.cost import (
    DECODED,
    NEW_TOKENS,
    PROMPT_TOKENS,
    SCORED,
    Shape,
    Work,
    seconds_per_token,
)
from leakmech.models.load import LoadedModel
from leakmech.studies.benchmark.settings import BenchConfig

_COMPLETION = 26
"""Tokens of a stem and its completion, whose probability is taken."""
_ANSWER = 20
"""Tokens of an answer of the embedded model in plain form; in chat form, and of larger models, they are longer."""
_WORTH_TIMING = 40_000
"""Tokens of a run of which timing a pass takes a twentieth."""
_DISK, _DISK_ROW = 600e3, 1_100
"""Bytes of the page and small files; of an answer with its scores (2,400 of the embedded model: 0.5 and 0.6 kB)."""


def work_of(c: BenchConfig, shape: Shape) -> Work:  # noqa: ARG001 - what every study has
    """What a run has a model do; nothing is loaded but the samples."""
    return _work(c, NEW_TOKENS)


def _work(c: BenchConfig, answer: int) -> Work:
    """The same, with so many tokens in an answer that ends with its first sentence."""
    samples = len(load_dataset(c.dataset).take(c.limit))
    prompts = samples * len(c.conditions)
    rows = c.generations * (prompts + samples * (c.noise_floor and "control" in c.conditions))
    drawn = answer if c.stop_at_first_sentence else c.decoding.max_new_tokens
    tokens = prompts * PROMPT_TOKENS + rows * min(drawn, c.decoding.max_new_tokens) * DECODED
    if c.tilt:
        completions = samples * c.tilt_completions
        tokens += completions * _COMPLETION * DECODED + completions * len(c.conditions) * _COMPLETION * SCORED
    if c.on_task:
        tokens += rows * (PROMPT_TOKENS + NEW_TOKENS) * SCORED
    return Work(tokens, rows, _DISK + rows * _DISK_ROW)


def estimate(c: BenchConfig, loaded: LoadedModel) -> str | None:
    """A line that says how long a run will take here; None if it is under a minute, or too small to time a pass for."""
    tokens = _work(c, _ANSWER).tokens
    if tokens < _WORTH_TIMING:
        return None
    minutes = tokens * seconds_per_token(loaded) / 60
    return f"about {minutes:.0f} minutes here, by the time of one pass" if minutes > 1 else None
