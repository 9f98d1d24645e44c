"""The numbers of Köprü et al. (2025, arXiv 2508.01708), and finished runs beside them; shared by the scripts here.

The paper's own numbers are in ``data/table3_table4.csv`` (its card says what they leave open). A run belongs beside a
row of the paper if the last part of its model's name, its data set's name without suffix (``hexl``, ``aexl``) and its
instruction (``none``, ``paper``) are the row's. Ours are counted as the paper may have counted them
(:mod:`leakmech.scoring.paper`): one generation a prompt, mu_EL as the mean over the draws and W_EL as their median p.

Errors: the paper prints none, so that of a share mu of N verdicts is sqrt(mu (1 - mu) / N), with N = 120 for HEXL and
400 for AEXL (three injections a sample for mu_L: 180 and 600). Ours come from the bootstrap over samples. The interval
of a difference joins both (MOVER, Zou & Donner 2008): its lower end lies sqrt((ours - low)^2 + (1.96 se)^2) below it.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import leakmech
from leakmech.core.errors import DatasetError, LeakmechError, UsageError
from leakmech.core.rows import user_rows
from leakmech.core.store import write_text
from leakmech.reports.tables import Table
from leakmech.scoring.paper import PAPER_CLEANING, paper_statistics
from leakmech.scoring.records import leakage_scores

Row = dict[str, Any]
PAPER_FILE = Path(__file__).parent / "data" / "table3_table4.csv"
SAMPLES = {"HEXL": 60, "AEXL": 200}
"""Samples of the paper's data sets."""
WITHOUT, WITH = "none", "paper"
"""Instructions of Table 3 and of Table 4."""
Z = 1.96


@dataclass(frozen=True)
class ModelName:
    """What the name of a model says: ``Llama-3.2-1B-Instruct`` is Llama, 1.0 (billion parameters), an Instruct model.

    `size` is 0 where the name does not say.
    """

    vendor: str
    size: float
    instruct: bool

    @classmethod
    def of(cls, name: str) -> ModelName:
        """Read it from the last part of a model's name."""
        vendor = re.match(r"[A-Za-z]+", name)
        size = re.search(r"[-_](\d+(?:\.\d+)?)([bm])(?![a-z])", name, flags=re.IGNORECASE)
        billions = 0.0 if size is None else float(size[1]) * (1e-3 if size[2].lower() == "m" else 1.0)
        instruct = re.search(r"instruct|[-_]chat|[-_]it(?![a-z])", name, flags=re.IGNORECASE) is not None
        return cls(vendor[0] if vendor else name, billions, instruct)

    @property
    def kind(self) -> str:
        return "Instruct" if self.instruct else "base"

    @property
    def own_form(self) -> str:
        """The prompt form that fits: chat for an Instruct model, plain text for a base model."""
        return "chat" if self.instruct else "plain"


def paper_rows(path: Path = PAPER_FILE) -> list[Row]:
    """The paper's rows in the form of :func:`load_rows`; DatasetError names the line that is wrong."""
    rows = []
    for line, given in user_rows(path):
        try:
            instruction = {"3": WITHOUT, "4": WITH}[str(given["table"])]
            values = {name: _number(given[name]) for name in ("mu_l", "mu_el", "w_el")}
            name, dataset = str(given["model"]), str(given["dataset"])
            samples = SAMPLES[dataset]
        except (KeyError, ValueError) as error:
            raise DatasetError(f"{path}:{line}: expected table, model, dataset and numbers; wrong: {error}") from error
        row = {"model": name, "dataset": dataset, "instruction": instruction, **values}
        row["mu_el_se"] = binomial_error(values["mu_el"], 2 * samples)
        row["mu_l_se"] = binomial_error(values["mu_l"], 3 * samples)
        rows.append(row)
    return rows


def _number(value: Any) -> float | None:
    return None if value in (None, "") else float(value)


def binomial_error(share: float | None, n: int) -> float | None:
    """Standard error of a share of n independent verdicts."""
    return None if share is None else math.sqrt(share * (1 - share) / n)


def load_rows(runs: Iterable[str | Path]) -> list[Row]:
    """One row a finished run, in the order of vendor, kind, size, data set, instruction and decoding."""
    rows = [_row(Path(path)) for path in runs]
    if not rows:
        raise UsageError("no runs: give at least one finished run directory")
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple[Any, ...]:
    name = ModelName.of(row["model"])
    return (
        name.vendor,
        name.instruct,
        name.size,
        row["dataset"] != "HEXL",
        row["instruction"] != WITHOUT,
        row["setting"],
    )


def _row(path: Path) -> Row:
    result = leakmech.load_result(path)
    summary = result.summary
    found = summary.get("paper") or paper_statistics(leakage_scores(result.scores, PAPER_CLEANING), seed=0)
    one, means, overall = found["one_generation"], found["means"], summary["overall"]
    free = overall.get("topic_free") or {}
    name, dataset = model_name(summary["model"]), Path(summary["dataset"]).stem
    temperature = (summary.get("decoding") or {}).get("temperature")
    chosen = "model" if "temperature_from" in summary else temperature
    row: Row = {
        "model": name,
        "dataset": dataset.upper() if dataset.upper() in SAMPLES else dataset,
        "instruction": summary["instruction"],
        "form": summary.get("prompt_form"),
        "temperature": temperature,
        "setting": _setting(ModelName.of(name), summary.get("prompt_form"), chosen),
        "run": str(path),
        "n_samples": summary["n_samples"],
        "generations": summary["generations"],
        "estimator": summary["estimator"],
        "w_el": one["w_el_median"],
        "w_el_least": (one["w_el_range"] or [None])[0],
        "w_el_most": (one["w_el_range"] or [None])[-1],
        "mu_el_means": means["mu_el"],
        "w_el_means": means["w_el"],
        "mu_l_charged": found["mu_l_charged"],
        "auc_el": overall["auc_el"],
        "topic_rate": overall.get("topic_rate"),
        "auc_el_topic_free": free.get("auc_el"),
    }
    row |= _estimate("mu_el", one) | _estimate("mu_l", found)
    for condition, own in one["mu_el_by_class"].items():
        row |= _estimate(f"mu_el_{condition}", {f"mu_el_{condition}{k}": own[f"mu_el{k}"] for k in ("", "_ci")})
    return row


def _estimate(name: str, values: Mapping[str, Any]) -> Row:
    """A number with the ends of its interval and the standard error that these amount to."""
    low, high = values[f"{name}_ci"] or (None, None)
    error = None if low is None or high is None else (high - low) / (2 * Z)
    return {name: values[name], f"{name}_low": low, f"{name}_high": high, f"{name}_se": error}


def _setting(name: ModelName, form: str | None, temperature: Any) -> str:
    """What runs of one model may differ in: the temperature (``T model``: the checkpoint's own), and a foreign form."""
    told = "T unknown" if temperature is None else f"T {temperature}"
    return told if form in (None, name.own_form) else f"{told}, {form}"


def beside(ours: Iterable[Row], paper: Sequence[Row]) -> list[Row]:
    """Our rows with the paper's number (``paper_<name>``) and ours minus it (``<name>_difference``, its interval)."""
    known = {_key(row): row for row in paper}
    return [row | _compared(row, known.get(_key(row), {})) for row in ours]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["model"], row["dataset"], row["instruction"]


def _compared(row: Row, theirs: Mapping[str, Any]) -> Row:
    found: Row = {f"paper_{name}": theirs.get(name) for name in ("mu_el", "mu_el_se", "mu_l", "mu_l_se", "w_el")}
    for name in ("mu_el", "mu_l"):
        value, other, low, high = row[name], theirs.get(name), row[f"{name}_low"], row[f"{name}_high"]
        difference, ends = None, (None, None)
        if value is not None and other is not None:
            difference = value - other
            if low is not None:
                ends = difference_interval(value, low, high, other, theirs[f"{name}_se"])
        found[f"{name}_difference"] = difference
        found[f"{name}_difference_low"], found[f"{name}_difference_high"] = ends
    return found


def difference_interval(value: float, low: float, high: float, other: float, error: float) -> tuple[float, float]:
    """95 % interval of `value` minus `other`: the one has the interval [low, high], the other a standard error."""
    difference = value - other
    return difference - math.hypot(value - low, Z * error), difference + math.hypot(high - value, Z * error)


def without_instruction(rows: Iterable[Row]) -> list[Row]:
    """The rows that Table 3 is about."""
    return [row for row in rows if row["instruction"] == WITHOUT]


def model_name(name: str) -> str:
    """The name a table shows: without owner, folder or ``embedded:``."""
    return Path(name.removeprefix("embedded:").removeprefix("hub:")).name


def write_table(rows: Sequence[Row], tables: Sequence[Table], out: Path) -> str:
    """Write the numbers as CSV and the tables as markdown, side by side; returns the markdown."""
    text = "\n\n".join(table.to_markdown() for table in tables) + "\n"
    write_text(out.with_suffix(".csv"), pd.DataFrame(list(rows)).to_csv(index=False))
    write_text(out.with_suffix(".md"), text)
    return text


def look_options(parser: argparse.ArgumentParser, out: str) -> None:
    """Add where a figure goes and how it looks: ``--out``, ``--width``, ``--no-title``."""
    parser.add_argument("--out", type=Path, default=Path(out), help="where to write PNG, PDF and CSV, without suffix")
    parser.add_argument("--width", type=_width, help="column (3.25 inches), page (6.75) or inches")
    parser.add_argument(
        "--no-title", dest="title", action="store_const", const="", help="for papers: they have captions"
    )


def _width(text: str) -> Any:
    return text if text in ("column", "page") else float(text)


def run_script(main: Callable[[], None]) -> None:
    """Run a script; an expected error is one line on stderr and its exit code, as on the command line of leakmech."""
    try:
        main()
    except LeakmechError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
