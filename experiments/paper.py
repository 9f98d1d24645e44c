"""Finished runs as the rows of the paper's tables (Köprü et al. 2025, arXiv 2508.01708); shared by the scripts here.

The paper's own numbers are not part of this repository: we had its abstract and method, not its tables. Whoever has
them puts them into a CSV file with the columns ``model, dataset, instruction`` and any of ``mu_el, mu_l, w_el`` and
gives it as ``--paper FILE``; they then stand beside ours. What the abstract claims is checked in any case.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

import leakmech
from leakmech.core.errors import DatasetError, LeakmechError, UsageError
from leakmech.core.rows import user_rows
from leakmech.core.store import write_text
from leakmech.reports.tables import Table

Row = dict[str, Any]
PAPER_KEYS = ("model", "dataset", "instruction")
PAPER_NUMBERS = ("mu_el", "mu_l", "w_el")
COLUMNS = (
    "model", "dataset", "instruction", "run", "n_samples", "generations", "cleaning", "estimator",
    "mu_el", "mu_el_low", "mu_el_high", "mu_el_paper_cleaning", "auc_el", "w_el", "mu_l", "mu_el_positive",
    "mu_el_negative", "paper_mu_el", "paper_mu_l", "paper_w_el",
)  # fmt: skip


@dataclass(frozen=True)
class PaperNumbers:
    """What the paper reports, by (model, dataset, instruction); empty if no file was given."""

    numbers: Mapping[tuple[str, str, str], Mapping[str, float]]

    @classmethod
    def read(cls, path: Path | None) -> PaperNumbers:
        """Read ``--paper FILE``; DatasetError names the line that is wrong."""
        if path is None:
            return cls({})
        numbers = {}
        for line, row in user_rows(path):
            missing = [name for name in PAPER_KEYS if not row.get(name)]
            if missing:
                raise DatasetError(f"{path}:{line}: column {missing[0]!r} is missing or empty")
            given = {name: row[name] for name in PAPER_NUMBERS if row.get(name) not in (None, "")}
            try:
                numbers[tuple(row[key] for key in PAPER_KEYS)] = {name: float(given[name]) for name in given}
            except ValueError as error:
                raise DatasetError(f"{path}:{line}: {error}") from error
        return cls(numbers)

    def of(self, row: Mapping[str, Any]) -> Mapping[str, float]:
        return self.numbers.get((row["model"], row["dataset"], row["instruction"]), {})


def load_rows(runs: Iterable[str | Path], paper: PaperNumbers) -> list[Row]:
    """One row a run, in the order of model family, size, data set and instruction."""
    rows = []
    for path in runs:
        summary = leakmech.load_result(path).summary
        overall, interval = summary["overall"], summary["overall"]["mu_el_ci"] or [None, None]
        row = {
            "model": model_name(summary["model"]),
            "dataset": Path(summary["dataset"]).stem,
            "instruction": summary["instruction"],
            "run": str(path),
            "mu_el_low": interval[0],
            "mu_el_high": interval[1],
            "mu_el_paper_cleaning": summary["by_cleaning"]["paper"]["mu_el"],
            "mu_el_positive": summary["conditions"]["positive"]["mu_el"],
            "mu_el_negative": summary["conditions"]["negative"]["mu_el"],
        }
        row |= {name: summary[name] for name in ("n_samples", "generations", "cleaning", "estimator")}
        row |= {name: overall[name] for name in ("mu_el", "auc_el", "w_el", "mu_l")}
        row |= {f"paper_{name}": value for name, value in paper.of(row).items()}
        rows.append(row)
    if not rows:
        raise UsageError("no runs: give at least one finished run directory")
    rows = [dict.fromkeys(COLUMNS) | row for row in rows]
    return sorted(rows, key=lambda row: (*_family_and_size(row["model"]), row["dataset"], row["instruction"] != "none"))


def without_instruction(rows: Iterable[Row]) -> list[Row]:
    """The runs that the main table is about."""
    return [row for row in rows if row["instruction"] == "none"]


def model_name(name: str) -> str:
    """The name a table shows: without owner, folder or ``embedded:``."""
    return Path(name.removeprefix("embedded:").removeprefix("hub:")).name


def write_table(rows: Sequence[Row], table: Table, out: Path) -> None:
    """The numbers as CSV and the table as markdown, side by side."""
    write_text(out.with_suffix(".csv"), pd.DataFrame(list(rows)).to_csv(index=False))
    write_text(out.with_suffix(".md"), table.to_markdown() + "\n")


def claim_of_size(rows: Sequence[Row]) -> list[str]:
    """The paper's claim that leakage falls with size within a family, for every family with three sizes or more."""
    families: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in without_instruction(rows):
        family, size = _family_and_size(row["model"])
        if size and row["mu_el"] is not None:
            families[family, row["dataset"]].append((size, row["mu_el"]))
    lines = []
    for (family, dataset), sized in families.items():
        if len({size for size, _ in sized}) >= 3:
            rank: Any = stats.spearmanr([size for size, _ in sized], [value for _, value in sized])
            lines.append(
                f"{family} on {dataset}: Spearman of size and mu_EL {rank.statistic:+.2f} over {len(sized)} runs "
                "(paper: falls with size)."
            )
    return lines or ["Leakage and size: no family with three sizes among these runs (paper: falls with size)."]


def claim_of_polarity(rows: Sequence[Row]) -> str:
    """The paper's claim that negative injections leak more."""
    plain = [row for row in without_instruction(rows) if None not in (row["mu_el_negative"], row["mu_el_positive"])]
    more = sum(row["mu_el_negative"] > row["mu_el_positive"] for row in plain)
    return f"Negative injections leak more than positive ones in {more} of {len(plain)} runs (paper: they do)."


def _family_and_size(name: str) -> tuple[str, float]:
    """``("Qwen2.5", 0.5)`` for Qwen2.5-0.5B-Instruct, sizes in billions; size 0 where the name does not say."""
    match = re.search(r"[-_](\d+(?:\.\d+)?)([bm])(?![a-z])", name, flags=re.IGNORECASE)
    if match is None:
        return name, 0.0
    return name[: match.start()], float(match[1]) * (1e-3 if match[2].lower() == "m" else 1.0)


def run_script(main: Callable[[], None]) -> None:
    """Run a script; an expected error is one line on stderr and its exit code, as on the command line of leakmech."""
    try:
        main()
    except LeakmechError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
