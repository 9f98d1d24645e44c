"""How long the study will take, before it starts: tokens that its stages read and draw, and the time of a pass."""

from __future__ import annotations

from collections.abc import Mapping

from leakmech.datasets.emotions import EMOTIONS
from leakmech.datasets.sev import VALENCES, Scenarios
from leakmech.models.cost import (
    DECODED,
    FIXED_SECONDS,
    PEAK,
    SCORED,
    UTILISATION,
    Shape,
    Work,
    known_shapes,
    seconds_per_token,
)
from leakmech.models.layout import Layout
from leakmech.models.load import LoadedModel
from leakmech.reports.tables import Table
from leakmech.studies.emotion_circuits.settings import EmotionCircuitsConfig

_PROMPT, _REPLY = 50, 25
"""Tokens of a prompt, and of a reply."""
_METHODS = 6
"""That are compared, beside random circuits."""
_LEAST = 60
"""A pass over a few tokens costs as much as one over this many: weights are read from memory once a pass."""
_SETS = 4
"""Kinds of units times edits."""
_LEAKAGE = 8
"""Prompts of a sample: four of leakage, and as many of relevant affect."""
MITIGATE_ROWS = ("base", "oracle")
"""That stand beside the dampened circuits."""
PAPER = ("Llama-3.2-3B-Instruct", "Qwen2.5-7B-Instruct")
_FLOAT32 = 1 / 15
"""Speed of float32 over that of bfloat16."""
_ROWS = 64
"""Prompts in a pass, whose logits take memory."""
_COPIES = 3
"""Streams of all groups that are in memory at once: at two sites, and in replies."""


def token_passes(c: EmotionCircuitsConfig, n_layers: int, n_scenarios: Mapping[str, int]) -> dict[str, float]:
    """Number of tokens that each stage reads, in passes through the whole model; a rough count."""
    n = {split: own * len(VALENCES) for split, own in n_scenarios.items()}
    e, drawn = len(EMOTIONS), _drawn(c, 1)
    judged = _PROMPT + _REPLY * SCORED  # perplexity
    tried = len(c.modulation_scales) + 2 * len(c.steering_strengths)
    edited = _METHODS - 2 + c.random_circuits
    forms = 2 if c.form == "auto" else 1
    rows = 1 + len(MITIGATE_ROWS) + c.leakage_draws
    leakage = rows * c.leakage_samples * _LEAKAGE * (c.leakage_generations * drawn + c.leakage_completions * judged)
    return {
        "form": forms * n["tune"] * e * drawn,
        "elicitation": n["fit"] * e * (drawn + judged),
        "directions": n["fit"] * e * (_PROMPT + _REPLY) + n["tune"] * e * _PROMPT,
        "components": e * max(_LEAST, c.judged_events) * _SETS * (2 + c.random_draws),
        "influence": e * max(_LEAST, c.influence_events) * 2 * n_layers * len(c.influence_strengths),
        "strengths": tried * e * n["tune"] * (_drawn(c, n["tune"]) + judged) + 2 * n["tune"] * e * (drawn + judged),
        "comparison": edited * e * n["test"] * (_drawn(c, n["test"]) + judged) + 2 * n["test"] * e * (drawn + judged),
        "outside": 3 * e * c.outside_prompts * (_drawn(c, c.outside_prompts) + judged),
        "bridge": leakage if c.diagnosis else 0,
    }


def _drawn(c: EmotionCircuitsConfig, rows: int) -> float:
    """Tokens, by row, that drawing a reply costs: a step of few rows costs as much as one of many."""
    step = max(DECODED, _LEAST / rows) if rows > 1 else DECODED
    return _PROMPT + min(_REPLY, c.max_new_tokens) * step


def estimate(c: EmotionCircuitsConfig, loaded: LoadedModel, layout: Layout, splits: Mapping[str, Scenarios]) -> str:
    """A line that says how long the stages will take on this machine, roughly."""
    each = seconds_per_token(loaded)
    counts = token_passes(c, layout.n_layers, {name: len(own) for name, own in splits.items()})
    minutes = {name: count * each / 60 for name, count in counts.items()}
    parts = ", ".join(f"{name} {value:.1f}" for name, value in minutes.items() if value)
    return f"about {sum(minutes.values()):.0f} minutes here ({parts})"


def gpu_table(c: EmotionCircuitsConfig, splits: Mapping[str, Scenarios]) -> Table:
    """What the study needs on one H100, by formula, for the configured model and those of the paper."""
    own = c.model.rpartition("/")[2]
    shapes = known_shapes(own, *PAPER)
    unknown = [] if own in shapes else [f"{c.model}: its shape is not known here, so nothing is said of it"]
    rows = [_gpu_row(name, shape, c, splits) for name, shape in shapes.items()]
    header = ("model", "million tokens", "minutes", "GPU memory (GiB)", "memory (GiB)")
    notes = [
        f"one H100, {c.dtype}, by formula (leakmech.models.cost), expect a factor of three; nothing was measured",
        *unknown,
    ]
    return Table("What the study of emotion circuits costs", header, rows, notes)


def _gpu_row(name: str, shape: Shape, c: EmotionCircuitsConfig, splits: Mapping[str, Scenarios]) -> list[str]:
    tokens = sum(token_passes(c, shape.n_layers, {split: len(own) for split, own in splits.items()}).values())
    size, peak = (2, PEAK) if c.dtype in ("bfloat16", "float16") else (4, PEAK * _FLOAT32)
    seconds = tokens * 2 * shape.parameters / (UTILISATION * peak) + FIXED_SECONDS
    read = _streams(splits, shape)
    gpu = (size * shape.parameters + _ROWS * (_PROMPT + _REPLY) * shape.vocabulary * size) / 2**30
    return [name, f"{tokens / 1e6:.1f}", f"{seconds / 60:.0f}", f"{gpu:.0f}", f"{_COPIES * read / 2**30:.0f}"]


def _streams(splits: Mapping[str, Scenarios], shape: Shape) -> float:
    """Bytes of the streams of all groups at one site."""
    return len(splits["fit"]) * len(VALENCES) * len(EMOTIONS) * shape.n_layers * shape.width * 4


_DISK = 50e6
"""Bytes of tables, arrays, replies and the page."""


def work(c: EmotionCircuitsConfig, shape: Shape, splits: Mapping[str, Scenarios]) -> Work:
    """What the study has a model do, for sweeps."""
    tokens = sum(token_passes(c, shape.n_layers, {split: len(own) for split, own in splits.items()}).values())
    return Work(tokens, rows=0, disk=_DISK, held=_COPIES * _streams(splits, shape))
