"""How far people agree with each other about the same items, and an estimator with them.

Ratings are a matrix (items, raters) of whole numbers, NaN where a rater gave none. Raw agreement, the share of equal
ratings, says little by itself: raters who say yes nine times in ten, whatever they see, agree in 82 % of cases. So
the agreement of independent raters with the same habits stands beside it, and coefficients that correct for chance::

    (observed - expected) / (1 - expected)      kappa: Fleiss over all raters, Cohen for each pair
    1 - D_o / D_e                               Krippendorff's alpha: disagreement, weighted by its size

Alpha takes missing ratings; with ordinal ratings, the size of a disagreement is the number of ratings that lie between
the two. Values come from statsmodels, scikit-learn and the library `krippendorff`. Intervals are BCa bootstraps over
groups of items (for leakmech the samples: items of one sample share a stem). For that a coefficient is written as a
function of how often each group was drawn, all draws at once; the tests hold these forms against the libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import combinations
from typing import Any

import krippendorff
import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from leakmech.scoring.statistics import (
    DRAWS,
    LEVEL,
    Interval,
    auc,
    auc_interval,
    bootstrap,
    bootstrap_ratio,
    divide,
    json_number,
)

_ROWS_AT_ONCE = 500  # draws whose ranks are held at once

Ratings = Float[np.ndarray, "items raters"]


def majority(votes: Ratings) -> Float[np.ndarray, " items"]:
    """What more than half of the given votes (0 or 1) of each item say; NaN for a tie and if there is no vote."""
    given = (~np.isnan(votes)).sum(axis=1)
    twice = 2 * np.nansum(votes, axis=1)
    return np.where(twice == given, np.nan, (twice > given).astype(np.float64))


def raw_agreement(ratings: Ratings) -> dict[str, Float[np.ndarray, " items"]]:
    """Per item, the parts of raw agreement, to be summed over items.

    ``pairs`` of raters that both rated it, ``equal`` ones among these; 1 if ``complete`` (all rated it), ``unanimous``.
    """
    rater_pairs = np.array(list(combinations(range(ratings.shape[1]), 2))).reshape(-1, 2)
    first, second = ratings[:, rater_pairs[:, 0]], ratings[:, rater_pairs[:, 1]]
    complete = ~np.isnan(ratings).any(axis=1)
    return {
        "pairs": (~np.isnan(first) & ~np.isnan(second)).sum(axis=1, dtype=np.float64),
        "equal": (first == second).sum(axis=1, dtype=np.float64),
        "complete": np.asarray(complete, np.float64),
        "unanimous": np.asarray(complete & (ratings == ratings[:, :1]).all(axis=1), np.float64),
    }


def chance_agreement(ratings: Ratings, categories: Sequence[int]) -> dict[str, float]:
    """Raw agreement to be expected of raters who do not look at the items; NaN if no item was rated by two (by all).

    ``pairwise`` (mean over pairs, weighted by the items that both rated) and ``unanimous`` (all at once, over the items
    that all rated) are of independent raters with the habits of ours; ``…_uniform``: every rating is equally likely.
    """
    n_raters, n_categories = ratings.shape[1], len(categories)
    expected, weights = [], []
    for i, j in combinations(range(n_raters), 2):
        both = ratings[~np.isnan(ratings[:, [i, j]]).any(axis=1)][:, [i, j]]
        if len(both):
            expected.append(_shares(both, categories).prod(axis=1).sum())
            weights.append(len(both))
    complete = ratings[~np.isnan(ratings).any(axis=1)]
    return {
        "pairwise": float(np.average(expected, weights=weights)) if weights else np.nan,
        "unanimous": float(_shares(complete, categories).prod(axis=1).sum()) if len(complete) else np.nan,
        "pairwise_uniform": 1 / n_categories,
        "unanimous_uniform": n_categories ** (1.0 - n_raters),
    }


def fleiss(ratings: Ratings) -> float:
    """Fleiss' kappa (1971) over the items that all raters rated; NaN where it is undefined (one rating throughout)."""
    complete = ratings[~np.isnan(ratings).any(axis=1)]
    if len(complete) == 0 or len(np.unique(complete)) < 2:
        return np.nan
    return float(fleiss_kappa(aggregate_raters(complete.astype(int))[0]))


def cohen(
    first: Float[np.ndarray, " items"],
    second: Float[np.ndarray, " items"],
    *,
    categories: Sequence[int],
    weights: str | None = None,
) -> float:
    """Cohen's kappa of two raters over the items that both rated; NaN if there is none, or one rating throughout.

    With the weights ``"quadratic"`` a disagreement by two steps of `categories` counts four times one by one step.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    a, b = first[both].astype(int), second[both].astype(int)
    if len(a) == 0 or len(np.unique(np.concatenate([a, b]))) < 2:
        return np.nan
    return float(cohen_kappa_score(a, b, labels=list(categories), weights=weights))


def krippendorff_alpha(ratings: Ratings, *, categories: Sequence[int], level: str = "ordinal") -> float:
    """Krippendorff's alpha; NaN where it is undefined (no item with two ratings, or one rating throughout).

    `level` is a level of measurement of the library `krippendorff`; `categories` stand in their order.
    """
    paired = ratings[(~np.isnan(ratings)).sum(axis=1) >= 2]
    if len(np.unique(paired[~np.isnan(paired)])) < 2:
        return np.nan
    found = krippendorff.alpha(paired.T, level_of_measurement=level, value_domain=list(categories))  # pyright: ignore[reportArgumentType] - takes any of its levels
    return float(found)


def alpha_interval(
    ratings: Ratings, *, categories: Sequence[int], groups: Sequence[Hashable], seed: int, draws: int = DRAWS
) -> Interval:
    """Bootstrap interval of the ordinal :func:`krippendorff_alpha` over resampled groups of items.

    Alpha follows from the coincidence matrix o (how often ratings c and k stand on one item), a sum over items.
    With n_c its marginals, n their sum and m_c the mid-rank of rating c, it is
    1 - (n - 1) sum_ck o_ck (m_c - m_k)^2 / sum_ck n_c n_k (m_c - m_k)^2 (Krippendorff 2011).
    """
    n = len(categories)
    columns = _sum_by_group(_coincidences(ratings, categories).reshape(len(ratings), -1), groups)

    def alpha(sums: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows 1"]:
        coincidences = sums.reshape(-1, n, n)
        marginals = coincidences.sum(axis=2)
        midranks = marginals.cumsum(axis=1) - marginals / 2
        distance = (midranks[:, :, None] - midranks[:, None, :]) ** 2
        observed = (coincidences * distance).sum(axis=(1, 2))
        expected = (marginals[:, :, None] * marginals[:, None, :] * distance).sum(axis=(1, 2))
        return (1 - (marginals.sum(axis=1) - 1) * divide(observed, expected))[:, None]

    return bootstrap(columns, alpha, seed=seed, draws=draws, level=LEVEL)[0]


def rater_agreement(
    ratings: Ratings,
    *,
    categories: Sequence[int],
    raters: Sequence[str],
    groups: Sequence[Hashable],
    seed: int,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """How far `raters` agree on one kind of rating, as ``agreement.json`` has it; None for what cannot be computed.

    Intervals resample `groups`, which name the sample of each item.
    """
    parts = raw_agreement(ratings)
    found: dict[str, Any] = {"n_complete": int(parts["complete"].sum())}
    for name, equal, total in (("pairwise", "equal", "pairs"), ("unanimous", "unanimous", "complete")):
        share, interval = share_with_interval(parts[equal], parts[total], groups=groups, seed=seed, draws=draws)
        found |= {f"{name}_agreement": share, f"{name}_agreement_ci": interval}
    found["chance"] = {name: json_number(value) for name, value in chance_agreement(ratings, categories).items()}
    found["fleiss_kappa"] = json_number(fleiss(ratings))
    found["krippendorff_alpha"] = json_number(krippendorff_alpha(ratings, categories=categories))
    found["krippendorff_alpha_ci"] = alpha_interval(
        ratings, categories=categories, groups=groups, seed=seed, draws=draws
    ).to_json()
    found["pairs"] = [
        _pair(ratings[:, i], ratings[:, j], categories) | {"first": raters[i], "second": raters[j]}
        for i, j in combinations(range(len(raters)), 2)
    ]
    return found


def estimator_against_people(
    *,
    difference: Float[np.ndarray, " items"],
    valence_difference: Float[np.ndarray, " items"],
    verdict: Float[np.ndarray, " items"],
    mean_rating: Float[np.ndarray, " items"],
    groups: Sequence[Hashable],
    seed: int,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """How far an expression estimator agrees with what people say about the same pairs of sentences.

    `difference` is P_t[l] - P_c[l], `valence_difference` s_t - s_c. `verdict` is the majority's (1 moved towards the
    injection, 0 did not, NaN no majority), `mean_rating` "test more positive than control" (NaN where nobody rated).
    """
    settings: dict[str, Any] = {"seed": seed, "draws": draws}
    judged, rated = ~np.isnan(verdict), ~np.isnan(mean_rating)
    of_judged, of_rated = (np.asarray(_codes(groups))[mask] for mask in (judged, rated))
    says, el = verdict[judged], (difference[judged] > 0).astype(np.float64)
    found: dict[str, Any] = {"n": int(judged.sum()), "n_rated": int(rated.sum())}
    both_kinds = len(np.unique(says)) == 2
    moved, stayed = (difference[judged][says == kind] for kind in (1, 0))
    found["auc"] = json_number(float(auc(moved, stayed))) if both_kinds else None
    codes = np.asarray(_codes(of_judged))
    units = codes[says == 1], codes[says == 0]
    found["auc_ci"] = auc_interval(moved, stayed, units=units, **settings).to_json()
    same = (says == el).astype(np.float64)
    share, interval = share_with_interval(same, np.ones_like(same), groups=of_judged, **settings)
    found |= {"agreement": share, "agreement_ci": interval}
    found["chance_agreement"] = json_number(chance_agreement(np.stack([says, el], axis=1), (0, 1))["pairwise"])
    found["kappa"] = json_number(cohen(says, el, categories=(0, 1)))
    found["kappa_ci"] = kappa_interval(says, el, groups=of_judged, **settings).to_json()
    x, y = valence_difference[rated], mean_rating[rated]
    varies = len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0
    found["spearman"] = json_number(stats.spearmanr(x, y).statistic) if varies else None  # pyright: ignore[reportAttributeAccessIssue] - hidden by SciPy's decorator
    found["spearman_ci"] = spearman_interval(x, y, groups=of_rated, **settings).to_json()
    return found


def kappa_interval(
    first: Float[np.ndarray, " items"],
    second: Float[np.ndarray, " items"],
    *,
    groups: Sequence[Hashable] | np.ndarray,
    seed: int,
    draws: int = DRAWS,
) -> Interval:
    """Bootstrap interval over groups of Cohen's kappa of two verdicts (0 or 1, none missing)."""
    columns = _sum_by_group(np.stack([np.ones_like(first), first, second, first * second], axis=1), groups)

    def kappa(sums: Float[np.ndarray, "rows 4"]) -> Float[np.ndarray, "rows 1"]:
        n, a, b, both = sums.T
        observed = n - a - b + 2 * both
        expected = divide(a * b + (n - a) * (n - b), n)
        return divide(observed - expected, n - expected)[:, None]

    return bootstrap(columns, kappa, seed=seed, draws=draws, level=LEVEL)[0]


def spearman_interval(
    x: Float[np.ndarray, " items"],
    y: Float[np.ndarray, " items"],
    *,
    groups: Sequence[Hashable] | np.ndarray,
    seed: int,
    draws: int = DRAWS,
) -> Interval:
    """Bootstrap interval over groups of Spearman's rank correlation; every draw is ranked anew, ties share a rank."""
    member = _membership(groups)
    below = [member.T @ ((np.sign(v[None, :] - v[:, None]) + 1) / 2) for v in (x, y)]

    def correlation(counts: Float[np.ndarray, "rows groups"]) -> Float[np.ndarray, "rows 1"]:
        weights = counts @ member.T
        total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
        a, b = (ranks - (weights * ranks).sum(axis=1, keepdims=True) / total for ranks in (counts @ m for m in below))
        products = [(weights * product).sum(axis=1) for product in (a * b, a * a, b * b)]
        return divide(products[0], np.sqrt(products[1] * products[2]))[:, None]

    return bootstrap(np.eye(member.shape[1]), _in_parts(correlation), seed=seed, draws=draws, level=LEVEL)[0]


def share_with_interval(
    part: Float[np.ndarray, " items"],
    whole: Float[np.ndarray, " items"],
    *,
    groups: Sequence[Hashable] | np.ndarray,
    seed: int,
    draws: int = DRAWS,
) -> tuple[float | None, list[float] | None]:
    """sum(part) / sum(whole) over items, and its bootstrap interval over groups of items."""
    sums = _sum_by_group(np.stack([part, whole], axis=1), groups)
    interval = bootstrap_ratio(sums[:, 0], sums[:, 1], seed=seed, draws=draws)
    return json_number(float(divide(part.sum(), whole.sum()))), interval.to_json()


def _pair(
    first: Float[np.ndarray, " items"], second: Float[np.ndarray, " items"], categories: Sequence[int]
) -> dict[str, Any]:
    both = ~(np.isnan(first) | np.isnan(second))
    return {
        "n": int(both.sum()),
        "agreement": json_number(float(divide((first == second).sum(), both.sum()))),
        "kappa": json_number(cohen(first, second, categories=categories)),
        "weighted_kappa": json_number(cohen(first, second, categories=categories, weights="quadratic")),
    }


def _shares(ratings: Ratings, categories: Sequence[int]) -> Float[np.ndarray, "categories raters"]:
    """How often each rater gives each rating."""
    return np.stack([(ratings == category).mean(axis=0) for category in categories])


def _coincidences(ratings: Ratings, categories: Sequence[int]) -> Float[np.ndarray, "items categories categories"]:
    """Ordered pairs of different raters' ratings on each item, so that every rating counts once."""
    given = np.stack([(ratings == category).sum(axis=1) for category in categories], axis=1).astype(np.float64)
    pairs = given[:, :, None] * given[:, None, :] - np.eye(len(categories)) * given[:, :, None]
    others = given.sum(axis=1) - 1
    return np.where(others > 0, 1 / np.where(others > 0, others, 1), 0.0)[:, None, None] * pairs


def _codes(groups: Sequence[Hashable] | np.ndarray) -> Int[np.ndarray, " items"]:
    """Number of each item's group, in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def _membership(groups: Sequence[Hashable] | np.ndarray) -> Float[np.ndarray, "items groups"]:
    codes = _codes(groups)
    return np.eye(codes.max(initial=-1) + 1)[codes]


def _sum_by_group(
    values: Float[np.ndarray, "items columns"], groups: Sequence[Hashable] | np.ndarray
) -> Float[np.ndarray, "groups columns"]:
    return _membership(groups).T @ values


def _in_parts(statistic: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """`statistic`, some rows at a time, which bounds the memory that it needs."""
    return lambda rows: np.concatenate(
        [statistic(rows[start : start + _ROWS_AT_ONCE]) for start in range(0, len(rows), _ROWS_AT_ONCE)]
    )
