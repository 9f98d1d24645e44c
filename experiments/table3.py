"""Table 3: leakage of every model on every data set, from finished runs, with the paper's numbers where they are given.

    python experiments/table3.py runs/paper/* --out figures/table3 --paper paper_numbers.csv

mu_EL stands there under our cleaning (the headline policy of the run) and under the paper's, with W_EL and mu_L. We
take the paper's Table 3 to be its main table: leakage without an instruction against it. Prints markdown; writes CSV
and markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from paper import (
    PaperNumbers,
    Row,
    claim_of_polarity,
    claim_of_size,
    load_rows,
    run_script,
    without_instruction,
    write_table,
)  # fmt: skip

from leakmech.reports.cells import estimate, number, p_value
from leakmech.reports.tables import Table


def table3(runs: Sequence[Row]) -> Table:
    """The rows without an instruction."""
    plain = without_instruction(runs)
    rows = [
        (
            row["model"],
            row["dataset"],
            estimate(row, "mu_el"),
            number(row["mu_el_paper_cleaning"]),
            number(row["paper_mu_el"]),
            number(row["auc_el"]),
            p_value(row["w_el"]),
            number(row["mu_el_positive"]),
            number(row["mu_el_negative"]),
            number(row["mu_l"]),
            number(row["paper_mu_l"]),
        )
        for row in plain
    ]
    notes = [*claim_of_size(runs), claim_of_polarity(runs)]
    if all(row["paper_mu_el"] is None for row in plain):
        notes.append("The paper's numbers are not part of leakmech; --paper FILE puts them in.")
    header = (
        "model", "data set", "mu_EL [95 % CI]", "paper's cleaning", "mu_EL in the paper", "all pairs", "W_EL p",
        "positive", "negative", "mu_L", "mu_L in the paper",
    )  # fmt: skip
    return Table(title="Table 3: expression leakage by model and data set", header=header, rows=rows, notes=notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished run directories")
    parser.add_argument("--paper", type=Path, help="CSV file with the paper's numbers")
    parser.add_argument("--out", type=Path, default=Path("figures/table3"), help="where to write, without suffix")
    arguments = parser.parse_args()
    runs = load_rows(arguments.runs, PaperNumbers.read(arguments.paper))
    table = table3(runs)
    write_table(without_instruction(runs), table, arguments.out)
    print(table.to_markdown())


if __name__ == "__main__":
    run_script(main)
