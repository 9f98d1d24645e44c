"""The table of a comparison of mitigations."""

from __future__ import annotations

from typing import Any

import pandas as pd

from leakmech.reports.tables import Table


def mitigations_table(frame: pd.DataFrame, *, title: str = "Mitigations") -> Table:
    """One row per mitigation of one split: the base model first, then by selectivity; bounds and baselines last.

    Parameters
    ----------
    frame
        Rows of ``tables/mitigations.csv``.
    """
    ordered = frame.assign(place=[_place(kind) for kind in frame["kind"]]).sort_values(
        ["place", "selectivity"], ascending=[True, False], kind="stable"
    )
    rows = [
        (
            f"{row['name']} ({row['kind']})" if row["kind"] in ("oracle", "baseline") else str(row["name"]),
            _interval(row, "auc_el"),
            _interval(row, "leakage_reduction"),
            _interval(row, "retention"),
            _number(row.get("retention_relevant-self")),
            _number(row.get("retention_requests")),
            _number(row["fluency"]),
            _number(row["selectivity"]),
            _number(row["kl"], 3),
            _number(row["perplexity_ratio"]),
            _number(row["capability"]),
            _number(row["speed_ratio"]),
            _number(row.get("p_holm"), 3),
        )
        for row in ordered.to_dict("records")
    ]
    return Table(
        title=title,
        header=(
            "mitigation", "all pairs [95 % CI]", "reduction [95 % CI]", "retention [95 % CI]", "self", "requests",
            "fluency", "selectivity", "KL", "perplexity", "capability", "speed", "p",
        ),
        rows=rows,
        notes=[
            "all pairs: auc_EL on the leakage set, 0.5 = no leakage; reduction: share of it that is gone; retention: "
            "valence shift that is left where the injection is relevant (matched set; self: self-reports), or where "
            "emotional text is asked for (requests).",
            "KL in nats a token to the base model, perplexity of neutral text over the base model's, capability: share "
            "of everyday questions right, speed: base model's seconds over the mitigated one's; '-': does not apply. "
            "p: auc_EL differs from the base model's (permutations of samples, Holm over the mitigations).",
        ],
    )  # fmt: skip


def _place(kind: str) -> int:
    return {"base": 0, "oracle": 2, "baseline": 3}.get(kind, 1)


def _number(value: Any, digits: int = 2) -> str:
    return "-" if value is None or value != value else f"{value:.{digits}f}"


def _interval(row: dict[str, Any], name: str) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is None or low != low:
        return _number(row[name])
    return f"{_number(row[name])} [{_number(low)}, {_number(high)}]"
