"""Tables of a comparison of mitigations, for terminal, markdown and page."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from leakmech.reports.cells import DASH, number, p_value, signed
from leakmech.reports.figures.frames import Frame, words
from leakmech.reports.tables import Column, Table, estimate_of, value_of

_VERDICTS = ("worse", "inconclusive", "equivalent", "better")
_COLUMNS: Mapping[str, Column] = {
    "mitigation": lambda row: f"{row['name']} ({row['kind']})" if _place(row["kind"]) > 1 else str(row["name"]),
    "all pairs [95 % CI]": estimate_of("auc_el"),
    "contrast": value_of("contrast", signed),
    "topic-free": value_of("topic_free_auc_el", number),
    "reduction [95 % CI]": estimate_of("leakage_reduction"),
    "retention [95 % CI]": estimate_of("retention"),
    "self": value_of("retention_relevant-self", number),
    "requests": value_of("retention_requests", number),
    "fluency": value_of("fluency", number),
    "selectivity": value_of("selectivity", number),
    "KL": value_of("kl", lambda value: number(value, decimals=3)),
    "perplexity": value_of("perplexity_ratio", number),
    "capability": value_of("capability", number),
    "speed": value_of("speed_ratio", number),
    "p": value_of("p_holm", p_value),
}


def mitigations_table(frame: pd.DataFrame, *, title: str = "Mitigations") -> Table:
    """One row per mitigation of one split: the base model first, then by selectivity; bounds and baselines last."""
    ordered = frame.assign(place=[_place(kind) for kind in frame["kind"]]).sort_values(
        ["place", "selectivity"], ascending=[True, False], kind="stable"
    )
    notes = [
        "all pairs: auc_EL on the leakage set, 0.5 = as the control; contrast: own label minus wrong label, 0 = "
        "polarity does nothing; topic-free: all pairs of the answers that are not about the injection.",
        "reduction: share of auc_EL's distance from 0.5 that is gone; retention: valence shift that is left where the "
        "injection is relevant (matched set; self: self-reports), or where emotional text is asked for (requests).",
        "KL in nats a token to the base model, perplexity of neutral text over the base model's, capability: share "
        "of everyday questions right, speed: base model's seconds over the mitigated one's; –: does not apply. "
        "p: auc_EL differs from the base model's (permutations of samples, Holm over the mitigations).",
    ]
    return Table.of(title, ordered.to_dict("records"), _COLUMNS, notes)


def _place(kind: str) -> int:
    return {"base": 0, "oracle": 2, "baseline": 3}.get(kind, 1)


def side_effects_table(tested: Frame) -> Table:
    """One row per mitigation: the measures by their verdict."""
    measures = [name.removesuffix("_verdict") for name in tested.columns if name.endswith("_verdict")]
    rows = []
    for row in tested[tested["kind"] != "base"].to_dict("records"):
        found = {verdict: [words(m) for m in measures if row[f"{m}_verdict"] == verdict] for verdict in _VERDICTS}
        rows.append((str(row["name"]), *(", ".join(found[verdict]) or DASH for verdict in _VERDICTS)))
    notes = [
        "equivalent: within the margins of the configuration, by two one-sided tests (TOST); worse, better: beyond "
        "chance and not shown to lie within the margins; inconclusive: the samples do not tell."
    ]
    return Table("Each measure against the base model's.", ("mitigation", *_VERDICTS), rows, notes)


def strengths_table(tuned: Frame, tested: Frame) -> Table:
    """All strengths that were tried, on the samples on which they were chosen."""
    chosen = set(tested.loc[tested["kind"] != "base", "name"])
    columns: dict[str, Column] = {"mitigation": lambda row: row["name"] + (" ✓" if row["name"] in chosen else "")}
    columns["all pairs"] = value_of("auc_el", number)
    columns["reduction"] = value_of("leakage_reduction", number)
    columns |= {name: value_of(name, number) for name in ("retention", "fluency", "selectivity")}
    title = "On tune samples; ✓ was chosen by its selectivity."
    return Table.of(title, tuned.to_dict("records"), columns)
