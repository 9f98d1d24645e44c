"""Two injections of opposite polarity before a stem: does it matter which of them stands last?

Neither prompt of a sample has a polarity, so there is no label of which an answer could have more than the control: no
EL, no contrast, no W_EL. What is left is the shift of valence between the two orders of the same two sentences,

    order shift = mean over samples of ( mean valence | positive last  -  mean valence | negative last ),

above 0 if the last sentence counts more, below 0 if the first one does, 0 if order does nothing. Under the null the two
orders of a sample may be exchanged; the test is two-sided, since either sign says something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from leakmech.datasets.samples import Condition
from leakmech.scoring.inference import swap_test
from leakmech.scoring.leakage import LeakageScores, valence_shifts, with_intervals
from leakmech.scoring.statistics import DRAWS, UnitRatio, json_number, ratio_columns, ratios_of_sums
from leakmech.scoring.topic import Flags, without_topic

NO_POLARITY = "both prompts of a sample hold a positive and a negative injection, so neither has a polarity"
"""Why a run of opposed injections has no mu_EL."""

_OF_POLARITY = ("mu_el", "auc_el", "contrast", "w_el", "asymmetry", "valence_shift_from_neutral")


def order_statistics(scores: LeakageScores, flags: Flags | None, *, seed: int, draws: int = DRAWS) -> dict[str, Any]:
    """The order shift of all answers and of the topic-free ones, ready for JSON.

    Parameters
    ----------
    scores
        ``positive`` is the order in which the positive injection stands last.
    flags
        Which answers are on their injections; None where that is not told.
    seed, draws
        Of the bootstrap over samples and of the test.

    Returns
    -------
    dict
        ``order_shift`` with ``_ci`` and ``_p_swap`` (two-sided), and ``order_shift_topic_free`` with ``_ci``, which is
        None where topic is not told.
    """
    free = None if flags is None else _shift(without_topic(scores, flags))
    ratios = {"order_shift": _shift(scores), "order_shift_topic_free": free}
    found = with_intervals({"all": ratios}, seed=seed, draws=draws, level=0.95)["all"]
    exchanged: dict[Condition, Any] = {
        "positive": scores.probabilities["negative"],
        "negative": scores.probabilities["positive"],
    }
    swapped = replace(scores, probabilities={**scores.probabilities, **exchanged})
    given, other = (ratio_columns([_shift(one)]) for one in (scores, swapped))
    (test,) = swap_test(given, other, ratios_of_sums, seed=seed, draws=draws)
    return found | {"order_shift_p_swap": json_number(test.p)}


def _shift(scores: LeakageScores) -> UnitRatio:
    return UnitRatio.mean_of(valence_shifts(scores)["valence_shift"])


def without_polarity(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a benchmark without what needs a polarity: null, with the reason as ``no_mu_el``."""
    kept = {name: _nulled(value) for name, value in summary.items() if name != "paper"}
    return kept | {"no_mu_el": NO_POLARITY}


def _nulled(value: Any) -> Any:
    """`value` with null for every number of a statistic of polarity."""
    if isinstance(value, Mapping):
        return {name: None if str(name).startswith(_OF_POLARITY) else _nulled(own) for name, own in value.items()}
    return [_nulled(one) for one in value] if isinstance(value, list) else value
