"""Run what is missing for the paper's tables and figures, then print them.

    python experiments/reproduce_paper.py
    python experiments/reproduce_paper.py --models Qwen/Qwen2.5-0.5B-Instruct meta-llama/Llama-3.2-1B-Instruct \\
        --datasets hexl runs/aexl.jsonl --out runs/paper

For every model, data set and instruction there is one run under ``--out``; finished ones are left alone, interrupted
ones continued. A model that cannot be loaded does not stop the others: it is named at the end, and the exit code is 1.
What is not given comes from ``--config`` (default: configs/paper.yaml), which also holds all other settings.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import Any

import figure2
from paper import PaperNumbers, load_rows, model_name, run_script, without_instruction, write_table
from pydantic import BaseModel, Field
from table3 import table3
from table4 import instruction_effects, table4

import leakmech
from leakmech.core.errors import ConfigError, InterruptedRunError, LeakmechError
from leakmech.core.progress import rich_progress
from leakmech.core.store import write_text
from leakmech.core.validation import CLOSED, Text, checked
from leakmech.reports.figures.canvas import save_figure
from leakmech.runs.settings import read_yaml
from leakmech.studies.benchmark.settings import BenchConfig

MARGIN = 0.05
PAPER = Path(__file__).parents[1] / "configs" / "paper.yaml"


class Reproduction(BaseModel):
    """What is run: every combination of the three lists, under the same settings of ``leakmech bench``."""

    model_config = CLOSED

    models: list[Text] = Field(min_length=1)
    datasets: list[Text] = Field(default=["hexl"], min_length=1)
    instructions: list[Text] = Field(default=["none", "ignore-irrelevant"], min_length=1)
    settings: dict[str, Any] = {}

    @classmethod
    def read(cls, path: Path, **given: Any) -> Reproduction:
        """The file, under what is given beside it; a setting that is wrong is found before anything runs."""
        values = read_yaml(path) | {name: value for name, value in given.items() if value is not None}
        wanted = checked(cls, values, where=str(path), error=ConfigError, noun="key")
        BenchConfig.parse(wanted.settings, where=f"{path}: settings")
        return wanted


def run_missing(wanted: Reproduction, out: Path) -> tuple[list[Path], list[str]]:
    """Paths of the finished runs, and one line for each that failed."""
    finished, failed = [], []
    for model, dataset, instruction in product(wanted.models, wanted.datasets, wanted.instructions):
        path = out / f"{model_name(model)}-{Path(dataset).stem}-{instruction}"
        try:
            leakmech.bench(
                model, dataset=dataset, instruction=instruction, out=path, progress=rich_progress, **wanted.settings
            )
        except InterruptedRunError:
            raise
        except LeakmechError as error:
            failed.append(f"{path.name}: {error}")
        else:
            finished.append(path)
    return finished, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="hub ids, folders, or embedded:<name>")
    parser.add_argument("--datasets", nargs="+", help="built-in names or files (AEXL)")
    parser.add_argument("--instructions", nargs="+", help="names, or texts")
    parser.add_argument("--config", type=Path, default=PAPER, help="YAML file with these lists and settings")
    parser.add_argument("--paper", type=Path, help="CSV file with the paper's numbers")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    arguments = parser.parse_args()
    given = {name: getattr(arguments, name) for name in ("models", "datasets", "instructions")}
    runs, failed = run_missing(Reproduction.read(arguments.config, **given), arguments.out)
    if runs:
        _present(runs, PaperNumbers.read(arguments.paper), arguments.out)
    for line in failed:
        print(f"reproduce_paper: {line}", file=sys.stderr)
    sys.exit(1 if failed else 0)


def _present(runs: list[Path], paper: PaperNumbers, out: Path) -> None:
    """Tables 3 and 4 and Figure 2 of these runs."""
    rows = load_rows(runs, paper)
    effects = instruction_effects(rows, margin=MARGIN)
    tables = [table3(rows), table4(effects, margin=MARGIN)]
    write_table(rows, tables[0], out / "table3")
    write_table(effects, tables[1], out / "table4")
    print("\n\n".join(table.to_markdown() for table in tables))
    by_dataset: dict[str, list[Path]] = {}
    for row in without_instruction(rows):
        by_dataset.setdefault(row["dataset"], []).append(Path(row["run"]))
    for dataset, plain in by_dataset.items():
        expressions = figure2.expression_leakage(plain)
        write_text(out / f"figure2-{dataset}.csv", expressions.to_frame().to_csv(index=False))
        files = save_figure(figure2.draw(expressions, number=12), out / f"figure2-{dataset}")
        print(f"figure: {files[0]}")


if __name__ == "__main__":
    run_script(main)
