"""The page about a finished benchmark run, for a reader who opens it for the first time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leakmech.reports.browser import sample_browser
from leakmech.reports.cells import estimate, percent, short, signed
from leakmech.reports.chart import ChartRow, IntervalChart
from leakmech.reports.doubts import answer_doubts
from leakmech.reports.order import order_shift, order_table
from leakmech.reports.page import (
    Definitions,
    Details,
    Facts,
    Headline,
    Paragraph,
    Section,
    Shown,
    write_page,
)
from leakmech.reports.tables import (
    answer_choices,
    answers_table,
    cleaning_table,
    estimator_table,
    leakage_table,
    paper_table,
    tilt_table,
)
from leakmech.runs.result import Result
from leakmech.studies.benchmark import report_texts as texts
from leakmech.studies.benchmark.report_facts import facts, how_to_repeat, too_few

Summary = Mapping[str, Any]


def write_report(run: str | Path) -> Path:
    """Write ``report.html`` into the directory of a finished benchmark run, and return its path."""
    result = Result.load(run).of_kind("bench")
    about = f"{short(result.summary['model'])} on {short(result.summary['dataset'])}"
    return write_page(result.path, f"Expression leakage of {about}", sections(result))


def sections(result: Result) -> list[Section]:
    """The page, from what was found to how it was made."""
    summary, record = result.summary, result.record
    return [
        headline(summary),
        *(Paragraph(doubt, "caution small") for doubt in answer_doubts(summary)),
        *([Paragraph(texts.HEXL, "caution small")] if summary["dataset"] == "hexl" else []),
        Facts(facts(summary, record)),
        *(order_sections(summary) if summary.get("no_mu_el") else leakage_sections(summary)),
        sample_browser(result),
        Definitions(texts.DEFINITIONS, heading="What the numbers mean"),
        *how_to_repeat(record),
        Details.of(record.values, heading="Everything in run.json"),
        Details.of(summary, heading="Everything in summary.json"),
    ]


def leakage_sections(summary: Summary) -> list[Section]:
    """Leakage by condition, by which answers are counted, by cleaning policy, as the paper counts, by estimator."""
    estimators, letter = estimator_table(summary), paper_table(summary)
    return [
        leakage_chart(summary),
        Shown(leakage_table(summary), total="overall"),
        *answer_sections(summary),
        *_tilt_sections(summary),
        Paragraph(texts.CLEANING.format(policy=summary["cleaning"]), heading="Cleaning policies"),
        Shown(cleaning_table(summary)),
        Paragraph(texts.POLICIES, "soft small"),
        *([Paragraph(texts.LETTER, heading="As the paper counts"), Shown(letter)] if letter else []),
        *([Paragraph(texts.ESTIMATORS, heading="Expression estimators"), Shown(estimators)] if estimators else []),
    ]


def order_sections(summary: Summary) -> list[Section]:
    """What the order of two injections of opposite polarity does."""
    return [Shown(order_table(summary)), *_tilt_sections(summary)]


def _tilt_sections(summary: Summary) -> list[Section]:
    tilt = tilt_table(summary)
    return [Paragraph(texts.TILT, heading="Affective tilt"), Shown(tilt)] if tilt else []


# -- what was found --------------------------------------------------------------------------------------------------


def headline(summary: Summary) -> Headline:
    """The main result in words."""
    overall = summary["overall"]
    value, interval = overall["mu_el"], overall["mu_el_ci"]
    policy = summary["by_cleaning"][summary["cleaning"]]
    echo, empty = percent(policy["echo_rate"]), percent(policy["empty_rate"])
    rates = (
        f"Of the answers to prompts with an injection, {echo} began by repeating the prompt and {empty} were left "
        "without a sentence to score."
    )
    if summary.get("no_mu_el"):
        return Headline(f"Two sentences of opposite polarity, in both orders: {order_shift(summary)}.", rates)
    if value is None and (absent := _absent(policy)):
        return Headline(f"No comparison could be made: the run has no {absent} prompts.", texts.ABSENT)
    if value is None:
        return Headline("No comparison could be made: cleaning left no sentence to score.", rates)
    if interval is None:
        return Headline(
            texts.SHARE.format(percent(value, decimals=0)), f"There are too few samples for an interval. {rates}"
        )
    low, high = interval
    share = f"{percent(value, decimals=0)} [{100 * low:.0f}, {100 * high:.0f}]"
    return Headline(texts.SHARE.format(share), f"{_meaning(summary)} {rates}")


def _absent(policy: Summary) -> str:
    """The conditions of which a run has no prompts; empty if it has all."""
    return ", no ".join(name for name, rate in policy.get("echo_rates", {}).items() if rate is None)


def _meaning(summary: Summary) -> str:
    """What follows from contrast; of a run without it, from the interval of mu_EL, with what that leaves open."""
    overall = summary["overall"]
    contrast, ends = estimate(overall, "contrast", signed), overall.get("contrast_ci")
    if ends is None:
        low, high = overall["mu_el_ci"]
        side = "lies above" if low > 0.5 else "lies below" if high < 0.5 else "contains"
        return f"The 95 % interval {side} 50 %. {texts.NO_CONTRAST}"
    low, high = ends
    if few := too_few(summary):
        meaning = f"is not to be relied on: {few}."
    elif low > 0:
        meaning = "lies above 0: the polarity of the sentence moves the answer, the model leaks."
    elif high < 0:
        meaning = "lies below 0: answers move away from the polarity of the sentence."
    else:
        meaning = "contains 0: these data do not show leakage."
    return f"{texts.CONTRAST.format(contrast)} {meaning}"


def answer_sections(summary: Summary) -> list[Section]:
    """Leakage by which answers are counted, drawn and as a table; nothing for a run of an older version."""
    table = answers_table(summary)
    if table is None:
        return []
    rows = [
        ChartRow(
            str(row["name"]).partition(" (")[0],
            estimate(row, "auc_el"),
            row["auc_el"],
            row.get("auc_el_ci"),
            is_total=row["name"] == "all",
        )
        for row in answer_choices(summary)
    ]
    quantity = "all pairs: share of comparisons that leak"
    chart = IntervalChart(rows, quantity, texts.ANSWERS, "chance", heading="Which answers are counted")
    return [chart, Shown(table, total="all")]


def leakage_chart(summary: Summary) -> IntervalChart:
    """mu_EL overall, by condition, and of the noise floor."""
    overall = summary["overall"]
    values = {"overall": overall} | {name: summary["conditions"][name] for name in ("positive", "negative", "neutral")}
    if overall["noise_floor_mu_el"] is not None:
        floor = {"mu_el": overall["noise_floor_mu_el"], "mu_el_ci": overall["noise_floor_mu_el_ci"]}
        values["noise floor"] = floor
    rows = [
        ChartRow(
            name,
            estimate(own, "mu_el"),
            own["mu_el"],
            own["mu_el_ci"],
            is_total=name == "overall",
            is_baseline=name in ("neutral", "noise floor"),
        )
        for name, own in values.items()
    ]
    return IntervalChart(
        rows, "mu_EL: share of comparisons that leak", texts.CHART, "chance", heading="Leakage by condition"
    )
