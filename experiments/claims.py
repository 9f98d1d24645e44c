"""The seven claims of the paper, checked on its own printed numbers and on finished runs, side by side.

    python experiments/claims.py runs/paper/*

Models are grouped by vendor and by base or Instruct, because a series over sizes that mixes them says nothing. A check
has one group, what the numbers say there, and whether the claim holds; a difference stands in units of its standard
error, too (the paper's is binomial, ours comes from the bootstrap). That a claim holds in the direction of its numbers
does not say that these could not be chance: read the s.e.

1. mu_EL > .5 for every model and data set, p < .001.      5. Negative injections leak more than positive ones,
2. Leakage falls with size within a family.                   above all in base models.
3. Qwen leaks less than Llama of comparable size.          6. The instruction does not help consistently.
4. Instruct models leak less on HEXL, more on AEXL.        7. mu_L and mu_EL go together.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from paper import WITH, ModelName, Row, load_rows, paper_rows, run_script, without_instruction, write_table
from scipy import stats

from leakmech.reports.cells import DASH, number, p_value, signed
from leakmech.reports.tables import Table, value_of

CLAIMS = {
    1: "mu_EL > .5, p < .001",
    2: "falls with size",
    3: "Qwen less than Llama of comparable size",
    4: "Instruct less than base on HEXL, more on AEXL",
    5: "negative more than positive, above all in base models",
    6: "the instruction does not help consistently",
    7: "mu_L and mu_EL go together",
}
COMPARABLE = 1.6
"""Sizes are comparable if they differ by less than this factor: 1B and 1.5B are, 0.5B and 1B are not."""
LEVEL = 0.001


@dataclass(frozen=True)
class Check:
    """One claim in one group."""

    claim: int
    group: str
    says: str
    """The numbers."""
    holds: bool
    value: float | None = None
    """The number that decides, where it is one."""


def checks(rows: Sequence[Row]) -> list[Check]:
    """Every check that these rows allow; rows are of one setting, one a model, data set and instruction."""
    plain = [row for row in without_instruction(rows) if row["mu_el"] is not None]
    per_dataset = [
        [row for row in plain if row["dataset"] == name] for name in dict.fromkeys(r["dataset"] for r in plain)
    ]
    found: list[Check] = []
    for own in per_dataset:
        found += [above_half(own), *falls_with_size(own), *vendors(own), *tuned_against_base(own)]
        found += [*polarities(own), *instructions(own, rows), *together(own)]
    return sorted(found, key=lambda check: check.claim)


def above_half(rows: Sequence[Row]) -> Check:
    """Claim 1, over the rows of one data set."""
    above = sum(row["mu_el"] > 0.5 for row in rows)
    certain = sum(row["w_el"] is not None and row["w_el"] < LEVEL for row in rows)
    says = f"{above} of {len(rows)} above .5, p < .001 in {certain}"
    return Check(1, rows[0]["dataset"], says, above == certain == len(rows))


def falls_with_size(rows: Iterable[Row]) -> list[Check]:
    """Claim 2: each larger model of a series leaks less than the one before; series of three sizes or more."""
    series: dict[tuple[str, str, str], dict[float, Row]] = {}
    for row in rows:
        name = ModelName.of(row["model"])
        if name.size:
            series.setdefault((name.vendor, name.kind, row["dataset"]), {})[name.size] = row
    found = []
    for (vendor, kind, dataset), by_size in series.items():
        if len(by_size) >= 3:
            own = [by_size[size] for size in sorted(by_size)]
            falls = all(larger["mu_el"] < smaller["mu_el"] for smaller, larger in pairwise(own))
            values = ", ".join(f"{size:g}B {by_size[size]['mu_el']:.2f}" for size in sorted(by_size))
            change = own[-1]["mu_el"] - own[0]["mu_el"]
            says = f"{values}; {_difference(change, own[-1], own[0])}"
            found.append(Check(2, f"{vendor} {kind}, {dataset}", says, falls, change))
    return found


def vendors(rows: Iterable[Row]) -> list[Check]:
    """Claim 3: Qwen minus Llama, for every Llama model and the Qwen model that is nearest to it in size."""
    named = [(ModelName.of(row["model"]), row) for row in rows]
    llamas, qwens = ([(n, r) for n, r in named if n.vendor == vendor and n.size] for vendor in ("Llama", "Qwen"))
    found = []
    for llama, row in llamas:
        near = [(abs(math.log(n.size / llama.size)), n.size, r) for n, r in qwens if n.instruct == llama.instruct]
        if near and min(near, key=lambda item: item[0])[0] < math.log(COMPARABLE):
            _, size, other = min(near, key=lambda item: item[0])
            group = f"Qwen {size:g}B - Llama {llama.size:g}B {llama.kind}, {row['dataset']}"
            found.append(_lower(3, group, other, row))
    return found


def tuned_against_base(rows: Iterable[Row]) -> list[Check]:
    """Claim 4: Instruct minus base of the same vendor and size; the paper claims less on HEXL, more on AEXL."""
    named = {(n.vendor, n.size, n.instruct): row for row in rows for n in [ModelName.of(row["model"])]}
    found = []
    for (vendor, size, instruct), tuned in named.items():
        base = named.get((vendor, size, False))
        if instruct and size and base is not None and tuned["dataset"] in ("HEXL", "AEXL"):
            group = f"{vendor} {size:g}B, {tuned['dataset']}"
            found.append(_lower(4, group, tuned, base, lower=tuned["dataset"] == "HEXL"))
    return found


def polarities(rows: Sequence[Row]) -> list[Check]:
    """Claim 5: negative minus positive, in base and in Instruct models, and the first minus the second.

    The paper prints no numbers by class.
    """
    found, means = [], {}
    for kind in ("base", "Instruct"):
        own = [row for row in rows if ModelName.of(row["model"]).kind == kind]
        pairs = [(row.get("mu_el_negative"), row.get("mu_el_positive")) for row in own]
        more = [n - p for n, p in pairs if n is not None and p is not None]
        if more:
            means[kind] = float(np.mean(more))
            says = f"mean {signed(means[kind])}, above 0 in {sum(value > 0 for value in more)} of {len(more)}"
            found.append(
                Check(5, f"negative - positive, {kind}, {rows[0]['dataset']}", says, means[kind] > 0, means[kind])
            )
    if len(means) == 2:
        more = means["base"] - means["Instruct"]
        found.append(Check(5, f"base more than Instruct, {rows[0]['dataset']}", f"by {signed(more)}", more > 0, more))
    return found


def instructions(rows: Sequence[Row], all_rows: Sequence[Row]) -> list[Check]:
    """Claim 6: with the instruction minus without; it helps consistently only if leakage falls in every model."""
    base = {row["model"]: row for row in rows}
    changed = [row for row in all_rows if row["instruction"] == WITH and row["dataset"] == rows[0]["dataset"]]
    known = [row for row in changed if row["model"] in base and row["mu_el"] is not None]
    differences = [row["mu_el"] - base[row["model"]]["mu_el"] for row in known]
    if not differences:
        return []
    mean, fallen = float(np.mean(differences)), sum(value < 0 for value in differences)
    says = (
        f"mean {number(mean, decimals=3, signed=True)} ({signed(min(differences))} to {signed(max(differences))}), "
        f"lower in {fallen} of {len(differences)}"
    )
    return [Check(6, rows[0]["dataset"], says, fallen < len(differences), mean)]


def together(rows: Sequence[Row]) -> list[Check]:
    """Claim 7: Pearson correlation of mu_L and mu_EL over the models; it holds if p < .05."""
    pairs = [(row["mu_l"], row["mu_el"]) for row in rows if None not in (row["mu_l"], row["mu_el"])]
    if len(pairs) < 3 or any(np.ptp(values) == 0 for values in zip(*pairs, strict=True)):
        return []
    found: Any = stats.pearsonr(*zip(*pairs, strict=True))
    says = f"r {signed(found.statistic)} over {len(pairs)} models, p {p_value(found.pvalue)}"
    return [
        Check(7, rows[0]["dataset"], says, bool(found.statistic > 0 and found.pvalue < 0.05), float(found.statistic))
    ]


def _lower(claim: int, group: str, one: Row, other: Row, *, lower: bool = True) -> Check:
    """Whether `one` leaks less than `other` (or more)."""
    change = round(one["mu_el"] - other["mu_el"], 12)
    return Check(claim, group, _difference(change, one, other), change < 0 if lower else change > 0, change)


def _difference(change: float, one: Row, other: Row) -> str:
    errors = one.get("mu_el_se"), other.get("mu_el_se")
    error = None if None in errors else math.hypot(*errors)  # pyright: ignore[reportArgumentType] - neither is None
    return signed(change) if not error else f"{signed(change)} ({abs(change) / error:.1f} s.e.)"


# -- the table ---------------------------------------------------------------------------------------------------------


def claims_table(ours: Sequence[Row], paper: Sequence[Row]) -> tuple[Table, list[Row]]:
    """Every check on the paper's numbers and, setting by setting, on ours; and the rows of its CSV file."""
    columns = {"paper": {(c.claim, c.group): c for c in checks(paper)}}
    for setting in dict.fromkeys(row["setting"] for row in ours):
        own = [row for row in ours if row["setting"] == setting]
        columns[f"ours, {setting}"] = {(c.claim, c.group): c for c in checks(own)}
    keys = sorted(dict.fromkeys(key for column in columns.values() for key in column), key=lambda key: key[0])
    rows: list[Row] = []
    for claim, group in keys:
        row: Row = {"claim": f"{claim}. {CLAIMS[claim]}", "group": group}
        for name, column in columns.items():
            check = column.get((claim, group))
            row[name] = DASH if check is None else f"{'yes' if check.holds else 'NO'}: {check.says}"
        rows.append(row)
    notes = [f"{name}: {_held(column.values())}." for name, column in columns.items() if column]
    notes.append(
        "yes: the numbers lie as the claim says; s.e.: a difference over its standard error (paper: binomial), both "
        "models taken as independent. The paper prints no leakage by class (claim 5)."
    )
    shown = {"claim": value_of("claim"), "group": value_of("group"), **{name: value_of(name) for name in columns}}
    return Table.of("Claims of the paper, on its numbers and on ours", rows, shown, notes), rows


def _held(found: Iterable[Check]) -> str:
    counts: dict[int, list[bool]] = {}
    for check in found:
        counts.setdefault(check.claim, []).append(check.holds)
    return "; ".join(f"claim {claim} holds in {sum(held)} of {len(held)}" for claim, held in sorted(counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished run directories")
    parser.add_argument("--out", type=Path, default=Path("figures/claims"), help="where to write, without suffix")
    arguments = parser.parse_args()
    table, rows = claims_table(load_rows(arguments.runs), paper_rows())
    print(write_table(rows, [table], arguments.out))


if __name__ == "__main__":
    run_script(main)
