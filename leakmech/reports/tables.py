"""Tables of a run: one list of rows, drawn as markdown or on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A titled table of finished texts; `notes` stand under it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def to_markdown(self) -> str:
        """GitHub-flavoured markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return "\n\n".join([f"**{self.title}**", table, *self.notes])

    def to_rich(self) -> RichTable:
        """For printing on a terminal; a narrow one folds cells and loses nothing."""
        notes = _literal("\n".join(self.notes)) if self.notes else None
        table = RichTable(
            title=_literal(self.title),
            title_justify="left",
            caption=notes,
            caption_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for index, name in enumerate(self.header):
            table.add_column(_literal(name), justify="left" if index == 0 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*map(_literal, row))
        return table


def _literal(text: str) -> Text:
    """Text in which square brackets are no markup."""
    return Text(text, no_wrap=False, overflow="fold")


def leakage_table(summary: Summary) -> Table:
    """The main table: leakage by condition and overall, with intervals."""
    rows = []
    for condition in ("positive", "negative", "neutral"):
        rows.append(_leakage_row(condition, summary["conditions"][condition]))
    overall = summary["overall"]
    rows.append(_leakage_row("overall", overall | summary["by_cleaning"][summary["cleaning"]]))
    noise = overall["noise_floor"]
    if noise is not None:
        floor = {
            "auc_el": noise,
            "auc_el_ci": overall["noise_floor_ci"],
            "mu_el": overall["noise_floor_mu_el"],
            "mu_el_ci": overall["noise_floor_mu_el_ci"],
        }
        rows.append(_leakage_row("noise floor", floor))
    return Table(
        title=(
            f"Expression leakage: {summary['model']} on {summary['dataset']} ({summary['n_samples']} samples "
            f"x 4 prompts x {summary['generations']} generations, seed {summary['seed']})"
        ),
        header=(
            "condition",
            "mu_EL [95 % CI]",
            "all pairs [95 % CI]",
            "mean",
            "W_EL p",
            "mu_L [95 % CI]",
            "echo",
            "empty",
        ),
        rows=rows,
        notes=[
            "mu_EL: generation i against control generation i; all pairs: all K x K pairs, ties count half; mean: "
            "means first, then compared. 0.5 = no leakage. overall = positive and negative; neutral: P[neutral] "
            "against control.",
            f"valence shift {_with_interval(overall, 'valence_shift', signed=True)} (positive - negative injection), "
            f"d_z {_number(overall['valence_d_z'])}; asymmetry {_with_interval(overall, 'asymmetry', signed=True)} "
            f"(> 0: negative injections move more); context shift "
            f"{_with_interval(overall, 'context_shift', signed=True)}",
        ],
    )


def cleaning_table(summary: Summary) -> Table:
    """The headline under each cleaning policy, with echo and empty rates."""
    rows = [
        (
            policy + (" (headline)" if policy == summary["cleaning"] else ""),
            _number(values["mu_el"]),
            _number(values["auc_el"]),
            _number(values["mu_el_mean"]),
            _p_value(values["w_el"]),
            _percent(values["echo_rate"]),
            _percent(values["empty_rate"]),
        )
        for policy, values in summary["by_cleaning"].items()
    ]
    header = ("cleaning", "mu_EL", "all pairs", "mean", "W_EL p", "echo", "empty")
    return Table(title="The same generations under each cleaning policy", header=header, rows=rows)


def estimator_table(summary: Summary) -> Table | None:
    """The same generations as each expression estimator sees them; None where there is only one."""
    if "by_estimator" not in summary:
        return None
    first = summary["estimator"]
    agreements = {row["second"]: row for row in summary["estimator_agreement"] if row["first"] == first}
    rows = []
    for name, values in summary["by_estimator"].items():
        overall, agreement = values["overall"], agreements.get(name, {})
        rows.append(
            (
                name + (" (headline)" if name == first else ""),
                _with_interval(overall, "mu_el"),
                _with_interval(overall, "auc_el"),
                _p_value(overall["w_el"]),
                _with_interval(overall, "valence_shift", signed=True),
                _with_interval(agreement, "el_agreement"),
                _number(agreement.get("el_kappa")),
                _number(agreement.get("valence_spearman")),
            )
        )
    header = (
        "estimator",
        "mu_EL [95 % CI]",
        "all pairs [95 % CI]",
        "W_EL p",
        "valence shift",
        "same EL",
        "kappa",
        "Spearman",
    )
    return Table(
        title="The same generations under each expression estimator",
        header=header,
        rows=rows,
        notes=[
            f"same EL: share of index pairs with the same verdict as {first}; kappa: that agreement beyond chance "
            "(Cohen); Spearman: rank correlation of valences. Ties count as no leakage in mu_EL and half in all pairs."
        ],
    )


def summary_tables(summary: Summary) -> list[Table]:
    """Every table of a run, the main one first."""
    tables = [leakage_table(summary), cleaning_table(summary), estimator_table(summary)]
    return [table for table in tables if table is not None]


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    """Runs and how they differ.

    From what ``comparison.json`` holds (:class:`leakmech.studies.benchmark.comparison.Comparison`).
    """
    margin, alpha = comparison["margin"], comparison["alpha"]
    header = ["run", "all pairs [95 % CI]", "difference [95 % CI]", "p", "p Holm", "p equiv.", "verdict"]
    header += ["mu_EL difference", "valence shift difference"]
    notes = [
        "all pairs: auc_el, to which difference, p values and verdict belong. p: runs exchanged within samples; "
        f"Holm: adjusted over the comparisons of this table; verdict at alpha {alpha:g}."
    ]
    if margin is not None:
        notes.append(f"p equiv.: two one-sided tests that auc_el differs by less than {margin:g}, adjusted likewise.")
    rows, kept = _comparison_rows(comparison), [i for i, n in enumerate(header) if margin is not None or i != 5]
    title = f"{len(comparison['runs'])} runs over the same {comparison['n_samples']} samples, paired by sample"
    return Table(
        title=f"{title} ({comparison['cleaning']})",
        header=[header[i] for i in kept],
        rows=[[row[i] for i in kept] for row in rows],
        notes=[*notes, *comparison["notes"]],
    )


def _comparison_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """With one baseline a row for each run; with more also one for each pair."""
    values = {e["run"]: e for e in comparison["estimates"] if e["statistic"] == "auc_el"}
    texts = {run: _with_ends(e, "value", digits=2) for run, e in values.items()}
    pairs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for difference in comparison["differences"]:
        pairs.setdefault((difference["run"], difference["baseline"]), []).append(difference)
    baselines = {baseline for _, baseline in pairs}
    if len(baselines) == 1:
        compared = {run: _difference_cells(d) for (run, _), d in pairs.items()}
        return [[run, texts[run], *compared.get(run, ["baseline", *["–"] * 6])] for run in comparison["runs"]]
    alone = [[run, texts[run], *["–"] * 7] for run in comparison["runs"]]
    return alone + [[f"{run} - {base}", "–", *_difference_cells(d)] for (run, base), d in pairs.items()]


def _difference_cells(differences: Sequence[Mapping[str, Any]]) -> list[str]:
    """Difference in auc_el, its p values and verdict, and the differences in mu_EL and valence shift."""
    auc_el, *others = differences
    return [
        _with_ends(auc_el, "difference", digits=3),
        *(_p_value(auc_el[name]) for name in ("p", "p_holm", "p_equivalence")),
        auc_el["verdict"],
        *(_with_ends(other, "difference", digits=2) for other in others),
    ]


def _with_ends(values: Mapping[str, Any], key: str, *, digits: int) -> str:
    """A value with its interval; differences are signed."""
    if values[key] is None:
        return "–"
    style = f"{'+' if key == 'difference' else ''}.{digits}f"
    if values["low"] is None:
        return f"{values[key]:{style}}"
    return f"{values[key]:{style}} [{values['low']:{style}}, {values['high']:{style}}]"


def summary_markdown(summary: Summary) -> str:
    """Every table of a run as markdown."""
    return "\n\n".join(table.to_markdown() for table in summary_tables(summary)) + "\n"


def _leakage_row(name: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        _with_interval(values, "mu_el"),
        _with_interval(values, "auc_el"),
        _number(values.get("mu_el_mean")),
        _p_value(values.get("w_el")),
        _with_interval(values, "mu_l"),
        _percent(values.get("echo_rate")),
        _percent(values.get("empty_rate")),
    )


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+.2f}" if signed else f"{value:.2f}"


def _with_interval(values: Mapping[str, Any], key: str, *, signed: bool = False) -> str:
    text, interval = _number(values.get(key), signed=signed), values.get(f"{key}_ci")
    if interval is None or interval[0] is None:
        return text
    return f"{text} [{_number(interval[0], signed=signed)}, {_number(interval[1], signed=signed)}]"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}".replace("%", " %")


def _p_value(p: float | None) -> str:
    if p is None:
        return "–"
    if p >= 1e-3:
        return f"{p:.2g}"
    return f"{p:.0e}".replace("e-0", "e-") if p > 0 else "< 1e-300"
