"""Finished runs as the rows of the paper's tables (Köprü et al. 2025, arXiv 2508.01708); shared by the scripts here.

The paper's own numbers are not part of this repository: we had its abstract and method, not its tables. Whoever has
them puts them into a CSV file with the columns ``model, dataset, instruction`` and any of ``mu_el, mu_l, w_el`` and
gives it as ``--paper FILE``; they then stand beside ours. What the abstract claims is checked in any case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

import leakmech
from leakmech.errors import DatasetError, UsageError
from leakmech.reports.tables import Table
from leakmech.store import write_text

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
        """Read ``--paper FILE``.

        Raises
        ------
        DatasetError
            The file cannot be read, or lacks a column.
        """
        if path is None:
            return cls({})
        try:
            frame = pd.read_csv(path, dtype=dict.fromkeys(PAPER_KEYS, str))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path}: cannot be read ({error})") from error
        missing = [name for name in PAPER_KEYS if name not in frame]
        if missing or not any(name in frame for name in PAPER_NUMBERS):
            raise DatasetError(f"{path}: needs {', '.join(PAPER_KEYS)} and one of {', '.join(PAPER_NUMBERS)}")
        given = [name for name in PAPER_NUMBERS if name in frame]
        return cls({tuple(row[key] for key in PAPER_KEYS): row[given].to_dict() for _, row in frame.iterrows()})

    def of(self, row: Mapping[str, Any]) -> Mapping[str, float]:
        return self.numbers.get((row["model"], row["dataset"], row["instruction"]), {})


def load_rows(runs: Iterable[str | Path], paper: PaperNumbers) -> pd.DataFrame:
    """One row a run, in the order of model family, size, data set and instruction.

    Raises
    ------
    UsageError
        There are no runs.
    RunDirectoryError
        One is not finished or is no run.
    """
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
    frame = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    order = sorted(range(len(frame)), key=lambda i: (*_family_and_size(rows[i]["model"]), rows[i]["dataset"]))
    return frame.iloc[order].reset_index(drop=True)


def model_name(name: str) -> str:
    """The name a table shows: without owner, folder or ``embedded:``."""
    return Path(name.removeprefix("embedded:").removeprefix("hub:")).name


def write_table(frame: pd.DataFrame, table: Table, out: Path) -> None:
    """The numbers as CSV and the table as markdown, side by side."""
    write_text(out.with_suffix(".csv"), frame.to_csv(index=False))
    write_text(out.with_suffix(".md"), table.to_markdown() + "\n")


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None) -> str:
    return "" if low is None or pd.isna(low) else f" [{number(low)}, {number(high)}]"


def p_value(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.1g}"


def claim_of_size(frame: pd.DataFrame) -> list[str]:
    """The paper's claim that leakage falls with size within a family, for every family with three sizes or more."""
    lines = []
    plain = frame[frame["instruction"] == "none"]
    families = [_family_and_size(name)[0] for name in plain["model"]]
    for (family, dataset), part in plain.groupby([families, "dataset"], sort=False):
        sized = [(size, value) for size, value in zip(map(_size, part["model"]), part["mu_el"], strict=True) if size]
        if len(sized) < 3:
            continue
        rank = stats.spearmanr(*zip(*sized, strict=True)).statistic
        lines.append(
            f"{family} on {dataset}: Spearman of size and mu_EL {rank:+.2f} over {len(sized)} sizes "
            "(paper: falls with size)."
        )
    return lines or ["Leakage and size: no family with three sizes among these runs (paper: falls with size)."]


def claim_of_polarity(frame: pd.DataFrame) -> str:
    """The paper's claim that negative injections leak more."""
    plain = frame[frame["instruction"] == "none"]
    more = int((plain["mu_el_negative"] > plain["mu_el_positive"]).sum())
    return f"Negative injections leak more than positive ones in {more} of {len(plain)} runs (paper: they do)."


def _family_and_size(name: str) -> tuple[str, float]:
    """``("Qwen", 0.5)`` for Qwen2.5-0.5B-Instruct: what a table is sorted by."""
    match = re.search(r"[-_](\d+(?:\.\d+)?)([bm])(?![a-z])", name, flags=re.IGNORECASE)
    return (name[: match.start()] if match else name), _size(name) or 0.0


def _size(name: str) -> float | None:
    """Billions of parameters, read from the name; None if it does not say."""
    match = re.search(r"[-_](\d+(?:\.\d+)?)([bm])(?![a-z])", name, flags=re.IGNORECASE)
    if match is None:
        return None
    return float(match[1]) * (1e-3 if match[2].lower() == "m" else 1.0)


def markdown(tables: Sequence[Table]) -> str:
    return "\n\n".join(table.to_markdown() for table in tables)
