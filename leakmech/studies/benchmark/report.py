"""The page about a finished benchmark run, for a reader who opens it for the first time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leakmech.reports.browser import sample_browser
from leakmech.reports.cells import percent
from leakmech.reports.chart import ChartRow, IntervalChart
from leakmech.reports.page import (
    Definitions,
    Details,
    Facts,
    Headline,
    Paragraph,
    Section,
    Shown,
    reproduce,
    write_page,
)
from leakmech.reports.tables import Table, cleaning_table, estimator_table, leakage_table
from leakmech.runs.directory import RunRecord
from leakmech.runs.result import Result
from leakmech.studies.benchmark import report_texts as texts
from leakmech.studies.benchmark.settings import BenchConfig, ScoreConfig

Summary = Mapping[str, Any]


def write_report(run: str | Path) -> Path:
    """Write ``report.html`` into a finished benchmark run; it depends on the run only.

    Parameters
    ----------
    run
        The run directory.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    RunDirectoryError
        `run` is no finished benchmark run.
    StorageError
        The page cannot be written.
    """
    result = Result.load(run).of_kind("bench")
    about = f"{_short(result.summary['model'])} on {_short(result.summary['dataset'])}"
    return write_page(result.path, f"Expression leakage of {about}", sections(result))


def sections(result: Result) -> list[Section]:
    """The page, from what was found to how it was made."""
    summary, record = result.summary, result.record
    estimators = estimator_table(summary)
    return [
        headline(summary),
        *([Paragraph(texts.HEXL, "caution small")] if summary["dataset"] == "hexl" else []),
        Facts(_facts(summary, record)),
        leakage_chart(summary),
        Shown(leakage_table(summary), total="overall"),
        Paragraph(texts.CLEANING.format(policy=summary["cleaning"]), heading="Cleaning policies"),
        Shown(cleaning_table(summary)),
        Paragraph(texts.POLICIES, "soft small"),
        *([Paragraph(texts.ESTIMATORS, heading="Expression estimators"), Shown(estimators)] if estimators else []),
        sample_browser(result),
        Definitions(texts.DEFINITIONS, heading="What the numbers mean"),
        *how_to_repeat(record),
        Details.of(record.values, heading="Everything in run.json"),
        Details.of(summary, heading="Everything in summary.json"),
    ]


# -- what was found --------------------------------------------------------------------------------------------------


def headline(summary: Summary) -> Headline:
    """The main result in words."""
    overall = summary["overall"]
    value, interval = overall["mu_el"], overall["mu_el_ci"]
    row = _by_name(leakage_table(summary))["overall"]
    rates = (
        f"Of the answers to prompts with an injection, {row['echo']} began by repeating the prompt and {row['empty']} "
        "were left without a sentence to score."
    )
    if value is None:
        return Headline("No comparison could be made: cleaning left no sentence to score.", rates)
    if interval is None:
        return Headline(
            texts.SHARE.format(percent(value, decimals=0)), f"There are too few samples for an interval. {rates}"
        )
    low, high = interval
    if low > 0.5:
        meaning = "The 95 % interval lies above 50 %: the model leaks."
    elif high < 0.5:
        meaning = (
            "The 95 % interval lies below 50 %: answers moved away from the injected sentiment, or there are many "
            f"ties, which count as no leakage here (all pairs, where a tie counts half: {row['all pairs']})."
        )
    else:
        meaning = "The 95 % interval contains 50 %: these data do not show leakage."
    share = f"{percent(value, decimals=0)} [{100 * low:.0f}, {100 * high:.0f}]"
    return Headline(texts.SHARE.format(share), f"{meaning} {rates}")


def leakage_chart(summary: Summary) -> IntervalChart:
    """mu_EL overall, by condition, and of the noise floor."""
    overall = summary["overall"]
    values = {"overall": overall} | {name: summary["conditions"][name] for name in ("positive", "negative", "neutral")}
    if overall["noise_floor_mu_el"] is not None:
        floor = {"mu_el": overall["noise_floor_mu_el"], "mu_el_ci": overall["noise_floor_mu_el_ci"]}
        values["noise floor"] = floor
    cells = _by_name(leakage_table(summary))
    rows = [
        ChartRow(
            name,
            cells[name]["mu_EL"],
            own["mu_el"],
            own["mu_el_ci"],
            is_total=name == "overall",
            is_baseline=name in ("neutral", "noise floor"),
        )
        for name, own in values.items()
    ]
    return IntervalChart(
        rows, "mu_EL: share of comparisons that leak", texts.CHART, "no leakage", heading="Leakage by condition"
    )


def _by_name(table: Table) -> dict[str, dict[str, str]]:
    """Cells of a table by row name and the column's name without its bracket."""
    columns = [name.partition(" [")[0] for name in table.header]
    return {row[0]: dict(zip(columns, row, strict=True)) for row in table.rows}


# -- how it was made -------------------------------------------------------------------------------------------------


def _short(name: str) -> str:
    """The last part of a path that is none of a name such as ``owner/model``."""
    path = Path(name)
    return path.name if path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2 else name


def _facts(summary: Summary, record: RunRecord) -> list[tuple[str, str]]:
    """What a reader needs to know about the run before the details."""
    row = _by_name(leakage_table(summary))["overall"]
    environment = record.environment
    version = (environment.get("packages") or {}).get("leakmech") or "version unknown"
    commit = environment.get("git_commit")
    if commit:
        version += f", commit {commit[:10]}" + (" with uncommitted changes" if environment.get("git_dirty") else "")
    if record.command == "score":
        origin = "Texts", f"generated elsewhere, read from {_short(record.fact('source'))}"
    else:
        device = environment.get("accelerator") or summary["device"]
        origin = "Numbers and device", f"{summary['dtype']} on {device}"
    return [
        ("Model", summary["model"]),
        ("Data set", f"{summary['dataset']}, {summary['n_samples']} samples x 4 prompts"),
        ("Generations per prompt (K)", str(summary["generations"])),
        ("mu_EL, all pairs", row["all pairs"]),
        ("W_EL p (one-sided Wilcoxon)", row["W_EL p"]),
        ("Cleaning policy", summary["cleaning"]),
        ("Expression estimator", ", ".join(summary.get("estimators", [summary["estimator"]]))),
        ("Instruction", summary["instruction"]),
        *_changes(summary),
        ("Seed", str(summary["seed"])),
        origin,
        ("Date", str(environment.get("date", "unknown")).replace("T", " ")),
        ("leakmech", version),
    ]


def _changes(summary: Summary) -> list[tuple[str, str]]:
    """How prompts and decoding were changed, where they were."""
    rows = []
    if "prompt_rewrite" in summary:
        failed = percent(summary["rewrites"]["overall"]["failed_share"], decimals=0)
        rows.append(("Prompts rewritten by", f"{summary['prompt_rewrite']} (failed and left as they were: {failed})"))
    if "contrast" in summary:
        c = summary["contrast"]
        values = f"strength {c['strength']:g}, plausibility {c['plausibility']:g}"
        rows.append(("Contrastive decoding", f"{c['method']}, reference {c['reference']}, {values}"))
    if summary.get("oracle"):
        rows.append(("Oracle", "this run uses what a user does not have: a bound, no mitigation"))
    return rows


def how_to_repeat(record: RunRecord) -> list[Section]:
    """The command that repeats the run."""
    if record.command != "score":
        return reproduce(BenchConfig, record)
    columns = [word for pair in record.fact("columns").items() for word in ("--column", "=".join(pair))]
    return reproduce(ScoreConfig, record, arguments=[record.fact("source"), *columns])
