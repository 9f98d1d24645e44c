"""Table 4: does an instruction lower leakage? The paper's numbers beside those of finished runs.

    python experiments/table4.py runs/paper/* --out figures/table4

A run with an instruction is paired with that of the same model, data set and setting without one, sample by sample
(`leakmech compare`, under the paper's cleaning): the difference in mu_EL has an interval, and a permutation p that is
adjusted by Holm over all rows of the table. Prints markdown; writes CSV and markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from paper import Row, beside, load_rows, paper_rows, run_script, without_instruction, write_table
from table3 import printed

import leakmech
from leakmech.reports.cells import number, p_value, signed
from leakmech.reports.tables import Table, estimate_of, value_of
from leakmech.scoring.inference import holm
from leakmech.scoring.paper import PAPER_CLEANING

MARGIN = 0.05
_change = partial(number, decimals=3, signed=True)
COLUMNS = {
    "model": value_of("model"),
    "data set": value_of("dataset"),
    "setting": value_of("setting"),
    "instruction": value_of("instruction"),
    "mu_EL paper ± s.e.": printed("mu_el"),
    "ours [95 % CI]": estimate_of("mu_el"),
    "difference [95 % CI]": estimate_of("mu_el_difference", signed),
    "W_EL p paper": value_of("paper_w_el", p_value),
    "ours": value_of("w_el", p_value),
    "paper: with - without": value_of("paper_change", signed),
    "ours: with - without [95 % CI]": estimate_of("change", _change),
    "p (Holm)": value_of("p_holm", p_value),
    "TOST p, all pairs": value_of("p_equivalence", p_value),
}


def instruction_effects(rows: Sequence[Row], *, margin: float) -> list[Row]:
    """Every row with an instruction that has a partner without, and the change: with minus without."""
    bases = {_partner(row): row for row in without_instruction(rows)}
    effects: list[Row] = []
    for row in rows:
        base = bases.get(_partner(row))
        if base is None or row["instruction"] == "none":
            continue
        compared = leakmech.compare([base["run"], row["run"]], margin=margin, cleaning=PAPER_CLEANING)
        found = compared.of("mu_el")[0]
        change = {"change": found.difference, "change_low": found.low, "change_high": found.high}
        printed_both = None not in (row["paper_mu_el"], base["paper_mu_el"])
        effects.append(
            row
            | change
            | {
                "mu_el_without": base["mu_el"],
                "paper_mu_el_without": base["paper_mu_el"],
                "paper_change": row["paper_mu_el"] - base["paper_mu_el"] if printed_both else None,
                "p": found.p,
                "p_equivalence": compared.of("auc_el")[0].p_equivalence,
            }
        )
    adjusted = holm([np.nan if row["p"] is None else row["p"] for row in effects]) if effects else []
    return [row | {"p_holm": None if np.isnan(p) else float(p)} for row, p in zip(effects, adjusted, strict=True)]


def _partner(row: Row) -> tuple[str, str, str]:
    return row["model"], row["dataset"], row["setting"]


def table4(effects: Sequence[Row], *, margin: float) -> Table:
    """The effects as a table."""
    notes = [
        "with - without: mu_EL under the instruction minus mu_EL without; below 0 it helps. p: runs exchanged within "
        f"samples. TOST p: of the hypothesis that all-pairs leakage changes by {margin:g} or more. difference: ours "
        "minus the paper's.",
    ]
    if not effects:
        notes.insert(0, "No model was run both with an instruction and without.")
    return Table.of("Table 4: leakage under an instruction, the paper's and ours", effects, COLUMNS, notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished run directories")
    parser.add_argument("--margin", type=float, default=MARGIN, help="largest change of mu_EL that does not matter")
    parser.add_argument("--out", type=Path, default=Path("figures/table4"), help="where to write, without suffix")
    arguments = parser.parse_args()
    effects = instruction_effects(beside(load_rows(arguments.runs), paper_rows()), margin=arguments.margin)
    table = table4(effects, margin=arguments.margin)
    print(write_table(effects, [table], arguments.out))


if __name__ == "__main__":
    run_script(main)
