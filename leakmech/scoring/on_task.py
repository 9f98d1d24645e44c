"""Could the model have said it without the injection? A number about leakage needs a model that does what it is asked.

For an answer a of n tokens, up to the end of the sentence that is scored, and the *control* prompt x of its sample,

    l(a) = 1/n sum_t log p(a_t | x, a_<t)      nats a token; p: the model of the run at temperature 1, untruncated;
    a is on task    <=>    l(a) >= q,          q = the 5 % quantile of l over first sentences of control answers.

q is pooled over samples. Of the control answers that made q, 95 % are on task by construction, so the rate of the
control set that was sampled again (the noise floor) stands beside it: those 5 % held out.

This is a quantity to read beside leakage, not a filter: an answer that leaks affect is less probable after the control
prompt, too. Means over few tokens scatter more, so that short answers are below q more often than long ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from leakmech.datasets.samples import CONDITIONS, Condition
from leakmech.scoring.leakage import PerGeneration
from leakmech.scoring.statistics import DRAWS, LEVEL, UnitRatio, bootstrap_ratio, json_number

OFF_TASK_SHARE = 0.05
"""Share of control answers that lie below the quantile."""
FEWEST_CONTROLS = 20
"""Fewer control answers have no 5 % quantile."""


def control_quantile(control: Float[np.ndarray, ...]) -> float:
    """The quantile q of the log-likelihoods of control answers, NaN where there is none; NaN if they are too few."""
    known = control[np.isfinite(control)]
    return float(np.quantile(known, OFF_TASK_SHARE)) if len(known) >= FEWEST_CONTROLS else np.nan


def is_on_task(log_p: Float[np.ndarray, ...], quantile: float) -> Bool[np.ndarray, ...]:
    """Which answers are not below the quantile; False where that is not known."""
    return log_p >= quantile


def on_task_statistics(
    log_p: Mapping[Condition, PerGeneration],
    *,
    again: PerGeneration | None,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> dict[str, Any]:
    """On-task rates with intervals, ready for JSON.

    Parameters
    ----------
    log_p
        By condition, log p per token of every answer after the control prompt; NaN where nothing was scored.
    again
        The same of the control answers that were sampled again; None without a noise floor.
    seed, draws, level
        Of the bootstrap over samples. The quantile stays as it is.

    Returns
    -------
    dict
        ``on_task_rate`` (positive and negative answers) with ``on_task_rate_ci``; ``on_task_rates`` by condition;
        ``on_task`` with ``share``, ``quantile`` (nats a token), ``n_control`` and ``control_again_rate`` with its
        interval. Only the last, with the ``reason``, if nothing is known. None is what cannot be computed.
    """
    quantile, n_control = control_quantile(log_p["control"]), int(np.isfinite(log_p["control"]).sum())
    if not np.isfinite(quantile):
        reason = f"{n_control} control answers were scored; their 5 % quantile needs {FEWEST_CONTROLS}"
        return {"on_task": {"reason": reason}}
    rates = {condition: _rate(log_p[condition], quantile) for condition in CONDITIONS}
    bootstrap = partial(_with_interval, seed=seed, draws=draws, level=level)
    rate, ends = bootstrap(rates["positive"] + rates["negative"])
    repeated, repeated_ends = (None, None) if again is None else bootstrap(_rate(again, quantile))
    return {
        "on_task_rate": rate,
        "on_task_rate_ci": ends,
        "on_task_rates": {condition: json_number(rates[condition].value) for condition in CONDITIONS},
        "on_task": {
            "share": OFF_TASK_SHARE,
            "quantile": quantile,
            "n_control": n_control,
            "control_again_rate": repeated,
            "control_again_rate_ci": repeated_ends,
        },
    }


def _rate(log_p: PerGeneration, quantile: float) -> UnitRatio:
    known = np.isfinite(log_p)
    return UnitRatio(is_on_task(log_p, quantile).sum(axis=1, dtype=float), known.sum(axis=1, dtype=float))


def _with_interval(ratio: UnitRatio, **bootstrap: Any) -> tuple[float | None, Any]:
    return json_number(ratio.value), bootstrap_ratio(ratio.numerator, ratio.denominator, **bootstrap).to_json()
