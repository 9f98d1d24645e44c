"""Tables of the study for terminal, markdown and page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leakmech.datasets.emotions import EMOTIONS
from leakmech.reports.cells import DASH, estimate, number, p_value, percent, significant, with_interval
from leakmech.reports.tables import Table, value_of
from leakmech.studies.emotion_circuits.judging import OVERALL

Summary = Mapping[str, Any]

ORIGINAL = {
    "prompting": (98.96, 100, 99.79, 97.50, 99.58, 97.50, 99.38),
    "steering": (91.22, 93.33, 96.04, 99.58, 96.88, 67.71, 93.75),
    "modulation": (99.41, 96.67, 100, 99.79, 100, 100, 100),
}
"""Accuracy in percent of Llama-3.2-3B-Instruct, all and the six emotions, by a judge that was told the target (arXiv
2510.11328, released result files)."""
_NAMES = {"random_circuit": "random circuits (mean)", "other": "another emotion's circuit"}


def study_tables(summary: Summary) -> list[Table]:
    """Accuracy, what replies are like, differences, units, and the bridge."""
    return [
        accuracy_table(summary),
        replies_table(summary),
        differences_table(summary),
        sets_table(summary),
        *([matched_table(summary)] if summary.get("matched") else []),
        *bridge_tables(summary),
    ]


def accuracy_table(summary: Summary) -> Table:
    """Accuracy of every method by emotion, with the original's numbers beside."""
    rows = []
    for name, own in summary["accuracy"].items():
        cells = [_rate(own[emotion]) for emotion in (OVERALL, *EMOTIONS)]
        others = [
            number(by_method[name]["rate"]) if name in by_method else DASH
            for judge, by_method in summary["accuracy_by_judge"].items()
            if judge != summary["judges"][0]
        ]
        rows.append((_NAMES.get(name, name), *cells, *others))
    rows += [
        (f"original, {name}", *(number(value / 100) for value in values), *[DASH] * (len(summary["judges"]) - 1))
        for name, values in ORIGINAL.items()
    ]
    header = ("method", "all", *EMOTIONS, *(f"all, {judge}" for judge in summary["judges"][1:]))
    notes = [
        f"{summary['n_test']} replies a method; judge {summary['judges'][0]!r} is not told the emotion: chance is .14; "
        "intervals over scenarios, of random circuits the lowest and highest",
        "original: Llama-3.2-3B-Instruct, a judge that was told the emotion (arXiv 2510.11328)",
    ]
    return Table("Is the emotion expressed? Accuracy [95 % CI]", header, rows, notes)


def _rate(own: Mapping[str, Any]) -> str:
    return with_interval(own["rate"], own["low"], own["high"], number)


def replies_table(summary: Summary) -> Table:
    """What replies are like that express it, or do not."""
    chosen = summary["strengths"]
    rows = [
        (
            str(_NAMES.get(name, name)),
            significant(chosen[name]) if name in chosen else DASH,
            number(own["ratio"]) if own["ratio"] is not None else DASH,
            number(own["distinct_2"]),
            percent(own["modal_share"]),
            with_interval(own["relevance"], own["relevance_low"], own["relevance_high"], number),
            number(own["words"], decimals=1),
            percent(own["empty"]),
        )
        for name, own in summary["fluency"].items()
    ]
    header = ("method", "strength", "perplexity ratio", "distinct-2", "modal opening", "relevance", "words", "empty")
    notes = [
        "perplexity under the base model after the event alone, over that of replies without a command; modal opening: "
        "share of the replies of an emotion that begin with the same three words; relevance: .5 for one text for all "
        "events"
    ]
    return Table("What are the replies like?", header, rows, notes)


def differences_table(summary: Summary) -> Table:
    """What modulation is more accurate than, emotion by emotion."""
    pairs = dict.fromkeys((row["method"], row["against"]) for row in summary["differences"])
    rows = []
    for method, against in pairs:
        own = {r["emotion"]: r for r in summary["differences"] if (r["method"], r["against"]) == (method, against)}
        rows.append((
            f"{method} - {_NAMES.get(against, against)}",
            *(with_interval(own[e]["difference"], own[e]["low"], own[e]["high"], number) for e in (OVERALL, *EMOTIONS)),
        ))  # fmt: skip
    notes = ["the same events; intervals over scenarios, not corrected for the number of comparisons"]
    return Table("Differences of accuracy [95 % CI]", ("difference", "all", *EMOTIONS), rows, notes)


def sets_table(summary: Summary) -> Table:
    """First units beside random ones, by projection."""
    records = [{"name": name.replace("_", ", "), **own} for name, own in summary["components"]["sets"].items()]
    columns = {
        "edit, kind": value_of("name"),
        "change of the projection": value_of("effect", lambda value: significant(value, signed=True)),
        "random sets, mean": value_of("random_mean", lambda value: significant(value, signed=True)),
        "above all random": lambda own: f"{own['above_all_random']} of {own['n_emotions']} emotions",
    }
    return Table.of("Do the first units write the emotion? (nothing is generated)", records, columns)


def matched_table(summary: Summary) -> Table:
    """Accuracy at equal fluency, from the curves on tune."""
    names = [name for name in summary["matched"][0] if name != "ratio"]
    rows = [
        (number(own["ratio"]), *(number(own[name]) if own[name] is not None else DASH for name in names))
        for own in summary["matched"]
    ]
    ratio = summary["prompting_ratio"]
    notes = [f"on lines between strengths, tune events; prompting itself has {number(ratio)}"] if ratio else []
    return Table("Accuracy where replies are equally fluent", ("perplexity ratio", *names), rows, notes)


def bridge_tables(summary: Summary) -> list[Table]:
    """Cosines, overlap and leakage; nothing where there was no diagnosis."""
    found = summary["bridge"]
    if "skipped" in found:
        return []
    emotions = [*EMOTIONS, "happiness against the rest"]
    cosines = Table(
        "Cosines with directions of leakage",
        ("direction", "layer", *emotions, "random, sd"),
        [(name, str(own["layer"]), *(number(own[e]) for e in emotions), number(own["random_sd"]))
         for name, own in found["cosines"].items()],
    )  # fmt: skip
    overlap = Table(
        "Units of the six circuits among those that carry tilt",
        ("kind", "in circuits", "by tilt", "of", "shared", "by chance", "p", "same layers", "p, same layers"),
        [(kind, str(own["n_circuit"]), str(own["n_tilt"]), str(own["n_all"]), str(own["shared"]),
          number(own["expected"], decimals=1), p_value(own["p"]), number(own["same_layers_mean"], decimals=1),
          p_value(own["same_layers_p"])) for kind, own in found["overlap"].items()],
    )  # fmt: skip
    columns = {
        "row": value_of("name"), "all pairs": lambda own: estimate(_with_ci(own, "auc_el"), "auc_el"),
        "topic-free shift": lambda own: estimate(
            _with_ci(own, "topic_free_valence_shift"), "topic_free_valence_shift", _signed
        ),
        "tilt shift": lambda own: estimate(_with_ci(own, "tilt_shift"), "tilt_shift", _signed),
        "retention": value_of("retention", number), "on task": value_of("on_task_rate", percent),
        "topic": value_of("topic_rate", percent), "fluency": value_of("fluency", number),
        "perplexity ratio": value_of("perplexity_ratio", number),
    }  # fmt: skip
    leakage = Table.of("Leakage with the circuits at factor 0", list(found["leakage"].values()), columns)
    return [cosines, overlap, leakage]


def _with_ci(own: Mapping[str, Any], name: str) -> dict[str, Any]:
    ends = [own.get(f"{name}_low"), own.get(f"{name}_high")]
    return {name: own.get(name), f"{name}_ci": None if None in ends else ends}


def _signed(value: Any) -> str:
    return significant(value, signed=True)
