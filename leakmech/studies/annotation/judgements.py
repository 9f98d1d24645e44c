"""What answered sheets say: verdicts of the majority, agreement of people, and the estimator against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.datasets.samples import POLARITIES
from leakmech.scoring.leakage import LABELS
from leakmech.scoring.statistics import json_number
from leakmech.studies.annotation.agreement import (
    estimator_against_people,
    majority,
    rater_agreement,
    share_with_interval,
)
from leakmech.studies.annotation.sheets import ANSWERS, Key, Side

FORMAT_VERSION = 1
KIND = "annotation"
PAPER_RAW_AGREEMENT = 0.85  # "over 85 %", three linguists

_POLARITY = {"positive": 1.0, "negative": -1.0}
_STEPS = sorted(ANSWERS)


def annotation_report(
    key: Key, ratings: Mapping[str, Mapping[str, int]], *, seed: int, draws: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The content of ``agreement.json``, and a table with one row per item.

    `ratings` by annotator and item are those of :func:`leakmech.studies.annotation.sheets.read_sheets`, at least one.
    """
    raters = [name for name in key.annotators if ratings.get(name)]
    matrix = np.array([[ratings[name].get(item, np.nan) for name in raters] for item in key.items], dtype=np.float64)
    pairs = _pairs(key, raters, matrix)
    moved = matrix * np.array([[_POLARITY[item.condition]] for item in key.items.values()])
    votes = np.where(np.isnan(moved), np.nan, (moved > 0).astype(np.float64))
    verdict, n_votes = majority(votes), (~np.isnan(votes)).sum(axis=1)
    away = majority(np.where(np.isnan(moved), np.nan, (moved < 0).astype(np.float64)))
    pairs["n_votes"], pairs["majority"], pairs["majority_away"] = n_votes, verdict, away
    settings: dict[str, Any] = {"groups": pairs["sample"].tolist(), "seed": seed, "draws": draws}
    agreement: dict[str, Any] = {"votes": None, "steps": None}
    if len(raters) > 1:
        agreement["votes"] = rater_agreement(votes, categories=(0, 1), raters=raters, **settings)
        agreement["steps"] = rater_agreement(matrix, categories=_STEPS, raters=raters, **settings)
    report = {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "export": key.export,
        "run": dict(key.run),
        "cleaning": key.cleaning,
        "n_items": len(key.items),
        "n_samples": len({item.sample for item in key.items.values()}),
        "seed": seed,
        "annotators": [_annotator(key, name, ratings.get(name)) for name in key.annotators],
        "majority": {
            "n": int((~np.isnan(verdict)).sum()),
            "ties": int((np.isnan(verdict) & (n_votes > 0)).sum()),
            "without_votes": int((n_votes == 0).sum()),
        },
        "mu_el": {name: _mu_el(pairs, chosen, settings) for name, chosen in _conditions(pairs)},
        "agreement": agreement,
        "paper_raw_agreement": PAPER_RAW_AGREEMENT,
        "estimator": estimator_against_people(
            difference=pairs["difference"].to_numpy(),
            valence_difference=pairs["valence_difference"].to_numpy(),
            verdict=verdict,
            mean_rating=pairs["mean_rating"].to_numpy(),
            **settings,
        ),
    }
    return report, pairs


def _pairs(key: Key, raters: Sequence[str], matrix: Float[np.ndarray, "items raters"]) -> pd.DataFrame:
    """One row per item: where it comes from, its texts, what the estimator and people say."""
    rows = []
    for name, item in key.items.items():
        own = LABELS.index(item.condition)
        shift = np.subtract(item.p_test, item.p_control)
        rows.append(
            {
                "item": name,
                "sample": item.sample,
                "condition": item.condition,
                "generation": item.generation,
                "stem": item.stem,
                "control": item.control,
                "test": item.test,
                "names_injection": item.names_injection,
                "difference": shift[own],
                "el": int(shift[own] > 0),
                "valence_difference": shift[LABELS.index("positive")] - shift[LABELS.index("negative")],
            }
        )
    pairs = pd.DataFrame(rows)
    for i, rater in enumerate(raters):
        pairs[f"rating_{rater}"] = matrix[:, i]
    pairs["mean_rating"] = pd.DataFrame(matrix).mean(axis=1).to_numpy()
    return pairs


def _conditions(pairs: pd.DataFrame) -> list[tuple[str, Float[np.ndarray, " items"]]]:
    """Names of sets of items, and 1 for each item that belongs to one."""
    own = [(name, (pairs["condition"] == name).to_numpy(np.float64)) for name in POLARITIES]
    blind = 1.0 - pairs["names_injection"].to_numpy(np.float64)
    return [("overall", np.ones(len(pairs))), *own, ("no_shared_word", blind)]


def _mu_el(pairs: pd.DataFrame, chosen: Float[np.ndarray, " items"], settings: Mapping[str, Any]) -> dict[str, Any]:
    """mu_EL of people and of the estimator over the same pairs, those with a majority; and the opposite of leakage."""
    judged = chosen * pairs["majority"].notna().to_numpy()
    found: dict[str, Any] = {"n": int(judged.sum())}
    for name, verdicts in (("people", "majority"), ("people_away", "majority_away"), ("estimator", "el")):
        share, ends = share_with_interval(judged * (pairs[verdicts] == 1).to_numpy(), judged, **settings)
        found |= {name: share, f"{name}_ci": ends}
    return found


def _annotator(key: Key, name: str, ratings: Mapping[str, int] | None) -> dict[str, Any]:
    """What one annotator did; who always chooses A, or never sees a difference, stands out here."""
    given = ratings or {}
    firsts: dict[str, Side] = dict(key.annotators[name])
    moved = [rating * _POLARITY[key.items[item].condition] > 0 for item, rating in given.items()]
    for_a = [(rating > 0) == (firsts[item] == "test") for item, rating in given.items() if rating != 0]
    return {
        "name": name,
        "has_sheet": ratings is not None,
        "answers": len(given),
        "missing": len(key.items) - len(given),
        "moved_towards": json_number(float(np.mean(moved))) if moved else None,
        "equal": json_number(float(np.mean([rating == 0 for rating in given.values()]))) if given else None,
        "prefers_a": json_number(float(np.mean(for_a))) if for_a else None,
    }


def agreement_frame(report: Mapping[str, Any]) -> pd.DataFrame:
    """The numbers of the report, one a row: section, statistic, value, low and high (95 %)."""
    rows = []
    for section, values in (
        *((f"mu_el/{name}", values) for name, values in report["mu_el"].items()),
        *((f"agreement/{name}", values) for name, values in report["agreement"].items() if values is not None),
        ("estimator", report["estimator"]),
    ):
        rows += _rows(section, values)
    return pd.DataFrame(rows, columns=["section", "statistic", "value", "low", "high"])


def _rows(section: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _rows(f"{section}/{name}", value)
        elif name == "pairs":
            for pair in value:
                numbers = {key: pair[key] for key in ("n", "agreement", "kappa", "weighted_kappa")}
                rows += _rows(f"{section}/{pair['first']}, {pair['second']}", numbers)
        elif not name.endswith("_ci"):
            low, high = values.get(f"{name}_ci") or (None, None)
            rows.append((section, name, value, low, high))
    return rows
