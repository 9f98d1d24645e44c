"""Table 4: does an instruction lower leakage? Runs with an instruction against those without, model by model.

    python experiments/table4.py runs/paper/* --out figures/table4 --paper paper_numbers.csv

Runs of one model on one data set are paired by sample (`leakmech compare`): the difference in all-pairs leakage with
its interval and a permutation p, adjusted by Holm over all rows of the table. The paper's claim is that prompting does
not take leakage away. Prints markdown; writes CSV and markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from paper import PaperNumbers, Row, load_rows, run_script, without_instruction, write_table

import leakmech
from leakmech.reports.cells import number, p_value, with_interval
from leakmech.reports.tables import Table, value_of
from leakmech.scoring.inference import holm

_difference = partial(number, decimals=3)
COLUMNS = {
    "model": value_of("model"),
    "data set": value_of("dataset"),
    "instruction": value_of("instruction"),
    "mu_EL without": value_of("mu_el_without", number),
    "mu_EL with": value_of("mu_el_with", number),
    "paper without": value_of("paper_mu_el_without", number),
    "paper with": value_of("paper_mu_el_with", number),
    "difference [95 % CI]": lambda row: with_interval(row["difference"], row["low"], row["high"], _difference),
    "p (Holm)": value_of("p_holm", p_value),
    "TOST p": value_of("p_equivalence", p_value),
}


def instruction_effects(runs: Sequence[Row], *, margin: float) -> list[Row]:
    """One row for every run with an instruction that has a partner without; differences are with minus without."""
    bases = {(row["model"], row["dataset"]): row for row in without_instruction(runs)}
    rows: list[Row] = []
    for changed in runs:
        base = bases.get((changed["model"], changed["dataset"]))
        if base is None or changed["instruction"] == "none":
            continue
        found = leakmech.compare([base["run"], changed["run"]], margin=margin).of("auc_el")[0]
        rows.append(
            {
                "model": changed["model"],
                "dataset": changed["dataset"],
                "instruction": changed["instruction"],
                "mu_el_without": base["mu_el"],
                "mu_el_with": changed["mu_el"],
                "paper_mu_el_without": base["paper_mu_el"],
                "paper_mu_el_with": changed["paper_mu_el"],
                "difference": found.difference,
                "low": found.low,
                "high": found.high,
                "p": found.p,
                "p_equivalence": found.p_equivalence,
            }
        )
    adjusted = holm([np.nan if row["p"] is None else row["p"] for row in rows]) if rows else []
    return [row | {"p_holm": None if np.isnan(p) else float(p)} for row, p in zip(rows, adjusted, strict=True)]


def table4(effects: Sequence[Row], *, margin: float) -> Table:
    """The effects as a table."""
    notes = [
        "difference: all-pairs leakage with the instruction minus without; below 0 it helps. TOST p: of the hypothesis "
        f"that the difference is {margin:g} or more.",
        "paper: prompting does not take leakage away.",
    ]
    if not effects:
        notes.insert(0, "No model was run both with an instruction and without.")
    return Table.of("Table 4: leakage with and without an instruction", effects, COLUMNS, notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished run directories")
    parser.add_argument("--paper", type=Path, help="CSV file with the paper's numbers")
    parser.add_argument("--margin", type=float, default=0.05, help="largest difference in auc_el that does not matter")
    parser.add_argument("--out", type=Path, default=Path("figures/table4"), help="where to write, without suffix")
    arguments = parser.parse_args()
    runs = load_rows(arguments.runs, PaperNumbers.read(arguments.paper))
    effects = instruction_effects(runs, margin=arguments.margin)
    table = table4(effects, margin=arguments.margin)
    write_table(effects, table, arguments.out)
    print(table.to_markdown())


if __name__ == "__main__":
    run_script(main)
