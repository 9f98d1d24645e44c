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

from leakmech.reports.cells import number, p_value
from leakmech.reports.tables import Table, estimate_of, value_of

COLUMNS = {
    "model": value_of("model"),
    "data set": value_of("dataset"),
    "mu_EL [95 % CI]": estimate_of("mu_el"),
    "paper's cleaning": value_of("mu_el_paper_cleaning", number),
    "mu_EL in the paper": value_of("paper_mu_el", number),
    "all pairs": value_of("auc_el", number),
    "W_EL p": value_of("w_el", p_value),
    "positive": value_of("mu_el_positive", number),
    "negative": value_of("mu_el_negative", number),
    "mu_L": value_of("mu_l", number),
    "mu_L in the paper": value_of("paper_mu_l", number),
}


def table3(runs: Sequence[Row]) -> Table:
    """The rows without an instruction."""
    plain = without_instruction(runs)
    notes = [*claim_of_size(runs), claim_of_polarity(runs)]
    if all(row["paper_mu_el"] is None for row in plain):
        notes.append("The paper's numbers are not part of leakmech; --paper FILE puts them in.")
    return Table.of("Table 3: expression leakage by model and data set", plain, COLUMNS, notes)


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
