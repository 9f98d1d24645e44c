"""mu_EL, W_EL and mu_L as Köprü et al. (2025, arXiv 2508.01708) may have counted them.

A *verdict* is the comparison of one charged prompt with its control: EL_j = [P_t[l] > P_c[l]] (Eq. 1). With
N = 2 x samples charged prompts, mu_EL = sum_j EL_j / N (Eq. 2), and W_EL is the one-sided Wilcoxon test on the same N
differences P_t[l] - P_c[l]. The paper draws ten generations a prompt and does not say how they become one verdict. Two
readings have N verdicts, and its text does not tell them apart:

* **one generation**: draw i of the test against draw i of the control. K draws give K tables of N verdicts; mu_EL is
  the mean over the draws, and the p values have a median and a range.
* **means**: P is first averaged over the K generations of a prompt.

Its printed p values fit N = 120 (HEXL) and 400 (AEXL), which is one verdict a charged prompt: all K N pairs would give
far smaller p, one verdict a sample far larger ones.

mu_L (Eq. 3 and 4) is a mean over the index pairs of all three injections, since the paper says that it covers the
neutral one; beside it stands that of the charged ones. Texts are cleaned as in the paper, whatever the run's own
policy is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from leakmech.datasets.samples import INJECTIONS, POLARITIES, Condition
from leakmech.scoring.leakage import (
    LeakageScores,
    condition_leakage,
    leakage_differences,
    overall_leakage,
    own_label,
    semantic_leakage,
)
from leakmech.scoring.sentence import Cleaning
from leakmech.scoring.statistics import (
    DRAWS,
    LEVEL,
    UnitRatio,
    bootstrap_ratios,
    json_number,
    wilcoxon_greater,
)

PAPER_CLEANING: Cleaning = "paper"
"""The policy whose scores :func:`paper_statistics` is about."""


def paper_statistics(scores: LeakageScores, *, seed: int, draws: int = DRAWS, level: float = LEVEL) -> dict[str, Any]:
    """The paper's numbers under both readings, with intervals; ready for JSON.

    Parameters
    ----------
    scores
        Of texts that were cleaned by :data:`PAPER_CLEANING`.
    seed, draws, level
        Of the bootstrap over samples.

    Returns
    -------
    dict
        ``cleaning``; ``n_verdicts``, the charged prompts with a verdict; ``one_generation`` (``n_draws``, ``mu_el``,
        ``mu_el_ci``, ``mu_el_range``, ``w_el_median``, ``w_el_range``, and ``mu_el_by_class``); ``means`` (``mu_el``,
        ``mu_el_ci``, ``w_el``); ``mu_l`` over all injections and ``mu_l_charged``, with ``<name>_ci``. ``w_el`` are p
        values. None stands for what cannot be computed, and ``reason`` then says why.

    References
    ----------
    Köprü et al. (2025), Eq. 1 to 4 and sections 3.2, 4.1.
    """
    ratios: dict[str, UnitRatio | None] = {
        "one": overall_leakage(scores, pairing="index"),
        "means": overall_leakage(scores, pairing="mean"),
        **{name: condition_leakage(scores, name, pairing="index") for name in INJECTIONS},
        "mu_l": _pooled_semantic(scores, INJECTIONS),
        "mu_l_charged": _pooled_semantic(scores, POLARITIES),
    }
    given = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    ends = bootstrap_ratios(
        np.stack([ratio.numerator for ratio in given.values()], axis=1),
        np.stack([ratio.denominator for ratio in given.values()], axis=1),
        seed=seed,
        draws=draws,
        level=level,
    )
    values: dict[str, Any] = dict.fromkeys(ratios, (None, None))
    values |= {name: (json_number(r.value), e.to_json()) for (name, r), e in zip(given.items(), ends, strict=True)}
    means = np.concatenate([leakage_differences(scores, name) for name in POLARITIES])
    n_verdicts = int(np.isfinite(means).sum())
    by_class = {name: dict(zip(("mu_el", "mu_el_ci"), values[name], strict=True)) for name in INJECTIONS}
    found: dict[str, Any] = {
        "cleaning": PAPER_CLEANING,
        "n_verdicts": n_verdicts,
        "one_generation": _draw_by_draw(scores)
        | {"mu_el": values["one"][0], "mu_el_ci": values["one"][1], "mu_el_by_class": by_class},
        "means": {
            "mu_el": values["means"][0],
            "mu_el_ci": values["means"][1],
            "w_el": json_number(wilcoxon_greater(means)),
        },
    }
    for name in ("mu_l", "mu_l_charged"):
        found[name], found[f"{name}_ci"] = values[name]
    if not n_verdicts:
        found["reason"] = "no answer to a charged prompt could be compared with a control answer"
    return found


def draw_differences(scores: LeakageScores) -> Float[np.ndarray, "draws verdicts"]:
    """P_t[l] - P_c[l] of every charged prompt, one row a draw; NaN where either was not scored."""
    columns = []
    for condition in POLARITIES:
        test, control = own_label(scores, condition)
        columns.append((test - control).T)
    return np.concatenate(columns, axis=1)


def _draw_by_draw(scores: LeakageScores) -> dict[str, Any]:
    """What one generation a prompt would have given, draw by draw; draws without any verdict are left out."""
    differences = [own[np.isfinite(own)] for own in draw_differences(scores)]
    differences = [own for own in differences if len(own)]
    if not differences:
        return {"n_draws": 0, "mu_el_range": None, "w_el_median": None, "w_el_range": None}
    shares = [float((own > 0).mean()) for own in differences]
    p = [wilcoxon_greater(own) for own in differences]
    return {
        "n_draws": len(differences),
        "mu_el_range": [min(shares), max(shares)],
        "w_el_median": float(np.median(p)),
        "w_el_range": [min(p), max(p)],
    }


def _pooled_semantic(scores: LeakageScores, conditions: tuple[Condition, ...]) -> UnitRatio | None:
    """mu_L of several injections pooled; None without similarities."""
    found = [semantic_leakage(scores, condition) for condition in conditions]
    known = [ratio for ratio in found if ratio is not None]
    if len(known) < len(found):
        return None
    total = known[0]
    for ratio in known[1:]:
        total = total + ratio
    return total
