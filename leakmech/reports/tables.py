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


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    """Runs against their baseline, from what ``comparison.json`` holds (:meth:`leakmech.comparison.Comparison.to_dict`)."""
    values = {(e["run"], e["statistic"]): e for e in comparison["estimates"]}
    differences = {(d["run"], d["baseline"], d["statistic"]): d for d in comparison["differences"]}
    margin = comparison["margin"]
    rows = []
    for (run, baseline, statistic), d in differences.items():
        if statistic != "auc_el":
            continue
        others = [differences[run, baseline, name] for name in ("mu_el", "valence_shift")]
        row = [
            run,
            baseline,
            _number(values[run, "auc_el"]["value"]),
            _number(values[baseline, "auc_el"]["value"]),
            _difference(d),
            _p_value(d["p"]),
            _p_value(d["p_holm"]),
            *([] if margin is None else [_p_value(d["p_equivalence"])]),
            d["verdict"],
            *map(_difference, others),
        ]
        rows.append(row)
    header = ["run", "against", "all pairs", "against", "difference [95 % CI]", "p", "p Holm"]
    header += ([] if margin is None else ["p equiv."]) + ["verdict", "mu_EL difference", "valence shift difference"]
    notes = [
        "all pairs: auc_el, to which differences, p values and verdicts belong. p: the two runs exchanged within "
        f"samples; Holm: adjusted over the rows of this table; verdicts at alpha {comparison['alpha']:g}."
    ]
    if margin is not None:
        notes.append(f"p equiv.: TOST that auc_el differs by less than {margin:g}, adjusted like p Holm.")
    return Table(
        title=f"{len(comparison['runs'])} runs over the same {comparison['n_samples']} samples, paired by sample "
        f"({comparison['cleaning']})",
        header=header,
        rows=rows,
        notes=[*notes, *comparison["notes"]],
    )


def _difference(values: Mapping[str, Any]) -> str:
    """A signed difference with its interval."""
    ends = [values["low"], values["high"]]
    return _with_interval({"difference": values["difference"], "difference_ci": ends}, "difference", signed=True)


def summary_markdown(summary: Summary) -> str:
    """Main table and cleaning table as markdown."""
    return leakage_table(summary).to_markdown() + "\n\n" + cleaning_table(summary).to_markdown() + "\n"


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
