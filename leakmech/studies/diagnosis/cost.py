"""How long a diagnosis will take, before it starts: tokens that its stages run, and the time of a pass over some."""

from __future__ import annotations

from collections.abc import Mapping

from leakmech.models.cost import DECODED, Sized, seconds_per_token
from leakmech.studies.diagnosis.settings import DiagnoseConfig
from leakmech.studies.diagnosis.workbench import Workbench

_ANSWER = 20  # tokens of an answer or completion
_STEM = 6
_SIZES = 11  # of circuits


def token_passes(c: DiagnoseConfig, layout: Sized, n: Mapping[str, int]) -> dict[str, float]:
    """Number of tokens that each stage reads, in passes through the whole model; a rough count.

    `n` is the number of samples of ``fit``, ``tune`` and ``test``.
    """
    tilt = c.target == "tilt"
    scored = min(c.tilt_samples, n["tune"]) + min(c.tilt_samples, n["test"]) if tilt else n["tune"] + n["test"]
    endings, few = (c.tilt_completions, c.exact_completions) if tilt else (2, 2)
    seen = _STEM + (_ANSWER if tilt else 0)
    sets = len(c.judged_heads) + len(c.judged_neurons) + tilt
    patches = layout.n_layers * layout.n_heads / 2 + 4 * layout.n_layers + 6 * c.integrated_steps + 75
    drawn = _ANSWER * DECODED
    return {
        "directions": sum(n.values()) * (8 * drawn + 4 * 2 * _ANSWER),
        "ranking": scored * endings * (6 * seen + (drawn if tilt else 0)),
        "verdict": sets * seen * ((1 + c.random_sets) * c.judged_samples * few + scored * endings / 2),
        "causal": c.exact_samples * few * seen * patches,
        "faithfulness": 2 * _SIZES * (3 + c.random_rankings) * c.circuit_samples * few * seen,
        "sampled": (1 + c.sampled_sets) * c.sampled_samples * 2 * c.sampled_generations * drawn
        if c.sampled_sets
        else 0,
    }


def estimate(bench: Workbench) -> str:
    """A line that says how long the stages will take on this machine, roughly."""
    each = seconds_per_token(bench.loaded)
    counts = token_passes(bench.config, bench.layout, {name: len(own) for name, own in bench.splits.items()})
    minutes = {name: count * each / 60 for name, count in counts.items()}
    parts = ", ".join(f"{name} {value:.1f}" for name, value in minutes.items())
    return f"about {sum(minutes.values()):.0f} minutes here ({parts})"
