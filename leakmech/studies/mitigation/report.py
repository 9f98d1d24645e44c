"""One HTML page about a comparison of mitigations: what each takes out, damages, and makes the model say.

The table of a comparison of mitigations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.datasets.samples import POLARITIES
from leakmech.reports.examples import evenly_spaced, sample_texts
from leakmech.reports.figures.frames import Frame, words
from leakmech.reports.page import ShownTable, embedded_figure, findings_page
from leakmech.reports.tables import Table
from leakmech.runs.directory import BenchResult

N_EXAMPLES = 4
_VERDICTS = ("worse", "inconclusive", "equivalent", "better")
_CAPTION = (
    "Right: less leakage. Up: more of the affect that belongs in the answer. On the dashed line nothing else is better "
    "in both."
)


def mitigation_page(
    summary: Mapping[str, Any], frame: pd.DataFrame, runs: Mapping[str, BenchResult], figures: Sequence[Path]
) -> str:
    """The page as HTML.

    Parameters
    ----------
    summary
        What ``summary.json`` holds.
    frame
        Rows of ``tables/mitigations.csv``.
    runs
        Benchmark runs on the leakage set whose answers are shown side by side, by name; the base model's first.
    figures
        PNG files; others among them are passed over.

    Raises
    ------
    FigureError
        A figure is missing or no PNG image.
    """
    drawn: Frame = frame
    tested, tuned = (drawn[drawn["split"] == split] for split in ("test", "tune"))
    tables = [ShownTable("side-effects", side_effects_table(tested), texts=True)]
    tables += [ShownTable("strengths", strengths_table(tuned, tested))] if len(tuned) else []
    tables += [ShownTable("answers", answers_table(runs), texts=True)] if runs else []
    return findings_page(
        summary,
        kind="Mitigations",
        heading="What takes leakage out, and what that costs",
        headline=headline(tested),
        numbers=mitigations_table(tested, title="On test samples; nothing was fitted or chosen on them"),
        tables=tables,
        figures=[embedded_figure(path, _CAPTION) for path in map(Path, figures) if path.suffix.lower() == ".png"],
    )


def headline(tested: Frame) -> str:
    """What the most selective mitigation does, in a sentence; empty where none has a selectivity."""
    found = tested[~tested["kind"].isin(["base", "baseline", "oracle"]) & tested["selectivity"].notna()]
    if found.empty:
        return ""
    best = found.sort_values("selectivity", ascending=False).iloc[0]
    return (
        f"The most selective one, {best['name']}, takes out {best['leakage_reduction']:.0%} of the leakage, keeps "
        f"{best['retention']:.0%} of the relevant affect and has a fluency of {best['fluency']:.2f}."
    )


def side_effects_table(tested: Frame) -> Table:
    """One row per mitigation: the measures by their verdict."""
    measures = [name.removesuffix("_verdict") for name in tested.columns if name.endswith("_verdict")]
    rows = []
    for row in tested[tested["kind"] != "base"].to_dict("records"):
        verdicts = {words(measure): row[f"{measure}_verdict"] for measure in measures}
        found = {verdict: [name for name, own in verdicts.items() if own == verdict] for verdict in _VERDICTS}
        rows.append((str(row["name"]), *(", ".join(found[verdict]) or "–" for verdict in _VERDICTS)))
    notes = [
        "Each measure against the base model's.",
        "equivalent: within the margins of the configuration, by two one-sided tests (TOST); worse, better: beyond "
        "chance and not shown to lie within the margins; inconclusive: the samples do not tell.",
    ]
    return Table("What each one damages", ("mitigation", *_VERDICTS), rows, notes)


def strengths_table(tuned: Frame, tested: Frame) -> Table:
    """All strengths that were tried, on the samples on which they were chosen."""
    chosen = set(tested["name"])
    columns = ("auc_el", "leakage_reduction", "retention", "fluency", "selectivity")
    rows = [
        (
            f"{row['name']}{' ✓' if row['name'] in chosen and row['kind'] != 'base' else ''}",
            *("–" if pd.isna(row[column]) else f"{row[column]:.2f}" for column in columns),
        )
        for row in tuned.to_dict("records")
    ]
    header = ("mitigation", "all pairs", "reduction", "retention", "fluency", "selectivity")
    return Table("Strengths that were tried", header, rows, ["On tune samples; ✓ was chosen by its selectivity."])


def answers_table(runs: Mapping[str, BenchResult]) -> Table:
    """The first generation of some prompts under each mitigation, evenly spaced in the data set's order."""
    texts = sample_texts(next(iter(runs.values())))
    ids = list(texts)
    said: dict[str, dict[tuple[str, str], str]] = {}
    for name, run in runs.items():
        scores: Frame = run.scores
        first = scores[scores["generation"] == 0]
        keys = zip(first["sample"], first["condition"], strict=True)
        said[name] = dict(zip(keys, map(str, first["first_sentence"]), strict=True))
    rows = []
    for index in evenly_spaced(len(ids), N_EXAMPLES):
        sample = texts[ids[index]]
        for condition in POLARITIES:
            prompt = f"{sample.injections[condition]} {sample.stem} …"
            rows.append((prompt, *(answers[sample.id, condition] or "–" for answers in said.values())))
    note = f"{N_EXAMPLES} of {len(ids)} samples, evenly spaced, first generation, scored sentence; nobody chose them."
    return Table("What the model says", ("prompt", *runs), rows, [note])


# -- mitigation tables -------------------------------------------------------------------------------------------------


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
