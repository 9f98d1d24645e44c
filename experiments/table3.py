"""Table 3: leakage of every model on every data set, the paper's numbers beside those of finished runs.

    python experiments/table3.py runs/paper/* --out figures/table3

mu_EL and W_EL are counted as the paper may have counted them, one generation a prompt; the means of all generations,
the other reading, stand beside them. The interval of a difference joins our bootstrap with the paper's binomial error.
Prints markdown; writes CSV and markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from paper import Row, beside, load_rows, paper_rows, run_script, without_instruction, write_table

from leakmech.reports.cells import DASH, number, p_value, percent, signed
from leakmech.reports.tables import Column, Table, estimate_of, value_of


def printed(name: str) -> Column:
    """The column of a number that the paper prints, with its binomial standard error."""

    def show(row: Mapping[str, Any]) -> str:
        value, error = row[f"paper_{name}"], row[f"paper_{name}_se"]
        return DASH if value is None else f"{value:.2f} ± {error:.3f}"

    return show


_ROW = {
    "model": value_of("model"),
    "data set": value_of("dataset"),
    "setting": value_of("setting"),
}
COLUMNS = {
    **_ROW,
    "T": value_of("temperature", partial(number, decimals=1)),
    "form": value_of("form"),
    "n": value_of("n_samples"),
    "mu_EL paper ± s.e.": printed("mu_el"),
    "ours [95 % CI]": estimate_of("mu_el"),
    "difference [95 % CI]": estimate_of("mu_el_difference", signed),
    "means of K": value_of("mu_el_means", number),
    "W_EL p paper": value_of("paper_w_el", p_value),
    "ours": value_of("w_el", p_value),
    "p, means of K": value_of("w_el_means", p_value),
}
SEMANTIC = {
    **_ROW,
    "mu_L paper ± s.e.": printed("mu_l"),
    "ours [95 % CI]": estimate_of("mu_l"),
    "difference [95 % CI]": estimate_of("mu_l_difference", signed),
    "charged injections": value_of("mu_l_charged", number),
    "topic": value_of("topic_rate", percent),
    "topic-free all pairs": value_of("auc_el_topic_free", number),
}
NOTES = (
    "mu_EL, W_EL: one generation a prompt (mean and median over the draws), cleaning paper; means of K: all "
    "generations of a prompt averaged first. The paper does not say which is its own. difference: ours minus the "
    "paper's.",
    "setting: T model is the checkpoint's own temperature; a form is named if it is not the model's own. n: samples.",
)
SEMANTIC_NOTES = (
    "mu_L: all three injections, as the paper says; beside it the positive and negative ones alone.",
    "topic: share of our answers to charged prompts that are about the injected sentence. topic-free: leakage without "
    "these (all pairs, the run's own cleaning).",
)


def table3(rows: Sequence[Row]) -> list[Table]:
    """Expression and semantic leakage of the rows without an instruction, as :func:`paper.beside` makes them."""
    plain = without_instruction(rows)
    strangers = dict.fromkeys(row["model"] for row in plain if row["paper_mu_el"] is None)
    told = [f"The paper has no number for {', '.join(strangers)}."] if strangers else []
    return [
        Table.of("Table 3: expression leakage, the paper's and ours", plain, COLUMNS, [*told, *NOTES]),
        Table.of("Table 3: semantic leakage, the paper's and ours", plain, SEMANTIC, SEMANTIC_NOTES),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished run directories")
    parser.add_argument("--out", type=Path, default=Path("figures/table3"), help="where to write, without suffix")
    arguments = parser.parse_args()
    rows = beside(load_rows(arguments.runs), paper_rows())
    print(write_table(without_instruction(rows), table3(rows), arguments.out))


if __name__ == "__main__":
    run_script(main)
