"""The page about a comparison of mitigations: what each takes out, damages, and makes the model say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.store import read_json, slug
from leakmech.datasets.samples import POLARITIES
from leakmech.reports.cells import DASH, number, p_value, percent
from leakmech.reports.examples import evenly_spaced, sample_texts
from leakmech.reports.figures.frames import Frame, words
from leakmech.reports.figures.trade_off import trade_off
from leakmech.reports.page import Facts, Headline, Picture, Section, Shown, how_it_was_made, write_page
from leakmech.reports.tables import Column, Table, estimate_of, value_of
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.mitigation.settings import MitigateConfig

N_EXAMPLES = 4
_VERDICTS = ("worse", "inconclusive", "equivalent", "better")
_NOT_JUDGED = ("base", "baseline", "oracle")
_CAPTION = (
    "Right: less leakage. Up: more of the affect that belongs in the answer. On the dashed line nothing else is better "
    "in both."
)


def write_report(run: str | Path) -> Path:
    """Draw the figure and write ``report.html`` into the directory of a comparison of mitigations; returns the page.

    Raises
    ------
    StorageError
        The file system refuses, or the comparison is not finished.
    """
    run = Path(run)
    summary = read_json(run / "summary.json")
    draw_mitigations(pd.read_csv(run / "tables" / "mitigations.csv"), run / "figures")
    about = f"{summary['model']} on {summary['dataset']}"
    return write_page(run, f"What takes leakage out, and what that costs: {about}", sections(run, summary))


def sections(run: Path, summary: Mapping[str, Any]) -> list[Section]:
    """The page, from the most selective mitigation to everything."""
    drawn: Frame = pd.read_csv(run / "tables" / "mitigations.csv")
    tested, tuned = (drawn[drawn["split"] == split] for split in ("test", "tune"))
    main = mitigations_table(tested, title="On test samples; nothing was fitted or chosen on them")
    text, answers, figure = headline(tested), answer_runs(run, tested, summary), run / "figures" / "pareto.png"
    return [
        *([Headline(text)] if text else []),
        Facts.of(summary),
        Shown(main, heading="Main numbers"),
        Shown(side_effects_table(tested), style="texts", heading="What each one damages"),
        *([Shown(strengths_table(tuned, tested), heading="Strengths that were tried")] if len(tuned) else []),
        *([Shown(answers_table(answers), style="texts", heading="What the model says")] if answers else []),
        *([Picture.of(figure, _CAPTION, heading="Figure")] if figure.exists() else []),
        *how_it_was_made(run, summary, MitigateConfig),
    ]


def headline(tested: Frame) -> str:
    """What the most selective mitigation does, in a sentence; empty where none has a selectivity."""
    found = tested[~tested["kind"].isin(_NOT_JUDGED) & tested["selectivity"].notna()]
    if found.empty:
        return ""
    best = found.sort_values("selectivity", ascending=False).iloc[0]
    reduction, kept = (percent(best[name], decimals=0) for name in ("leakage_reduction", "retention"))
    return (
        f"The most selective one, {best['name']}, takes out {reduction} of the leakage, keeps {kept} of the relevant "
        f"affect and has a fluency of {number(best['fluency'])}."
    )


def draw_mitigations(frame: pd.DataFrame, folder: str | Path) -> list[Path]:
    """``pareto.png``, ``.pdf`` and ``.csv``: retention against leakage reduction.

    Parameters
    ----------
    frame
        Rows of ``tables/mitigations.csv``.
    folder
        Where the files go.

    Returns
    -------
    list of Path
        Empty where no mitigation has both numbers: the base model did not leak, or had no relevant affect to keep.

    Raises
    ------
    FigureError
        A column is missing or holds no numbers.
    """
    kept = frame.loc[frame["leakage_reduction"].notna() & frame["retention"].notna() & (frame["kind"] != "base")]
    if kept.empty:  # where the base model does not leak there is nothing to take out
        return []
    return trade_off(
        kept,
        Path(folder) / "pareto.png",
        x=("leakage_reduction", "leakage reduction (1: none is left)"),
        y=("retention", "retention of relevant affect (1: as before)"),
        kinds=("intervention", "adapter", "instruction", "rewrite", "decoding", "oracle", "baseline"),
        bounds=("oracle", "baseline"),
        goal=0.8,
        beside=("fluency",),
        title="What takes out the leakage, and what it leaves of the feeling",
        subtitle="filled: test samples with 95 % intervals; open: strengths on tune samples; shaded: both at least 0.8",
    )


# -- tables ----------------------------------------------------------------------------------------------------------

_COLUMNS: Mapping[str, Column] = {
    "mitigation": lambda row: f"{row['name']} ({row['kind']})" if _place(row["kind"]) > 1 else str(row["name"]),
    "all pairs [95 % CI]": estimate_of("auc_el"),
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
    """One row per mitigation of one split: the base model first, then by selectivity; bounds and baselines last.

    Parameters
    ----------
    frame
        Rows of ``tables/mitigations.csv``.
    """
    ordered = frame.assign(place=[_place(kind) for kind in frame["kind"]]).sort_values(
        ["place", "selectivity"], ascending=[True, False], kind="stable"
    )
    notes = [
        "all pairs: auc_EL on the leakage set, 0.5 = no leakage; reduction: share of it that is gone; retention: "
        "valence shift that is left where the injection is relevant (matched set; self: self-reports), or where "
        "emotional text is asked for (requests).",
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


# -- answers ---------------------------------------------------------------------------------------------------------


def answer_runs(run: Path, tested: Frame, summary: Mapping[str, Any]) -> dict[str, BenchResult]:
    """The benchmarks on the leakage set of the base model and of the most selective mitigation, by name."""
    judged = tested[~tested["kind"].isin(_NOT_JUDGED)].sort_values("selectivity", ascending=False, kind="stable")
    found = {}
    for name in ("base", *judged["name"].head(1)):
        cells = (run / "cells" / "test").glob(f"{slug(name)}-{'[0-9a-f]' * 8}/{slug(Path(summary['dataset']).stem)}")
        # A mitigation that was changed leaves the cell of its older self beside its own.
        finished = [cell for cell in cells if (cell / "summary.json").exists()]
        if finished:
            found[name] = BenchResult.load(max(finished, key=lambda cell: (cell / "summary.json").stat().st_mtime_ns))
    return found


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
            rows.append((prompt, *(answers[sample.id, condition] or DASH for answers in said.values())))
    shown = min(N_EXAMPLES, len(ids))
    title = f"{shown} of {len(ids)} samples, evenly spaced, first generation, scored sentence; nobody chose them."
    return Table(title, ("prompt", *runs), rows)
