"""Run what is missing for the paper's tables and figures, then print them beside the paper's numbers.

    python experiments/reproduce_paper.py --dry-run
    python experiments/reproduce_paper.py
    python experiments/reproduce_paper.py --models embedded:smollm2-135m-instruct --out runs/small \\
        --set settings.estimator=embedded settings.encoder=embedded settings.limit=10 aexl.corpus=embedded \\
              aexl.estimator=embedded

Without an option these are the 36 rows of Tables 3 and 4 as configs/paper.yaml describes them, first under its first
setting (*variant*), then under the others. Every row has a run under ``--out``: finished ones are left alone,
interrupted ones continued. AEXL is built if it is missing. A model or data set that cannot be loaded does not stop the
others: it is named at the end, and the exit code is 1. Printed are Table 3, Table 4 and the seven claims: the paper's
numbers, ours and their difference. They and the figures are also written to ``--out``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import expressions
import figure1
import figure2
import yaml
from claims import claims_table
from paper import (
    WITH,
    WITHOUT,
    ModelName,
    Row,
    beside,
    load_rows,
    model_name,
    paper_rows,
    run_script,
    without_instruction,
    write_table,
)
from pydantic import BaseModel, Field
from table3 import table3
from table4 import MARGIN, instruction_effects, table4

import leakmech
from leakmech.core.errors import ConfigError, DatasetError, InterruptedRunError, LeakmechError, ModelError
from leakmech.core.progress import rich_progress
from leakmech.core.store import slug
from leakmech.core.validation import CLOSED, Text, checked
from leakmech.core.yaml_files import read_yaml
from leakmech.models.cost import cost as cost_of
from leakmech.models.cost import shape_of
from leakmech.models.load import load_tokenizer
from leakmech.reports.tables import Table
from leakmech.scoring.expression import estimator_names, load_estimator
from leakmech.studies.aexl.settings import AexlSettings
from leakmech.studies.benchmark.settings import BenchConfig

PAPER = Path(__file__).parents[1] / "configs" / "paper.yaml"
_OTHER = {"chat": "plain", "plain": "chat"}


class Variant(BaseModel):
    """A choice that the paper does not tell."""

    model_config = CLOSED

    form: Literal["own", "other"] = "own"
    temperature: float | Literal["model"]


class Reproduction(BaseModel):
    """What is run: models x data sets, Instruct models once more with the instruction, under every variant."""

    model_config = CLOSED

    models: list[Text] = Field(min_length=1)
    datasets: dict[Text, Text | None] = Field(min_length=1)
    """By name in the tables: a built-in name or a file; null is built by Algorithm 1."""
    aexl: dict[str, Any] = {}
    variants: dict[Text, Variant] = Field(min_length=1)
    settings: dict[str, Any] = {}

    @classmethod
    def read(cls, path: Path, changes: Sequence[str] = (), models: Sequence[str] | None = None) -> Reproduction:
        """The file under what is given beside it; a setting that is wrong is found before anything runs."""
        values = _changed(read_yaml(path), changes)
        if models:
            values["models"] = list(models)
        wanted = checked(cls, values, where=str(path), error=ConfigError, noun="key")
        BenchConfig.parse(wanted.settings, where=f"{path}: settings")
        if None in wanted.datasets.values():
            AexlSettings.parse(wanted.aexl, where=f"{path}: aexl")
        for name, variant in wanted.variants.items():
            decoding = {"decoding": {"temperature": variant.temperature}}
            BenchConfig.parse(decoding, where=f"{path}: variants: {name}")
        return wanted

    def rows(self) -> Iterator[PlannedRow]:
        """The rows, variant by variant, those of Table 3 before those of Table 4."""
        for variant in self.variants:
            for instruction in (WITHOUT, WITH):
                for model in self.models:
                    if instruction == WITHOUT or ModelName.of(model_name(model)).instruct:
                        for dataset in self.datasets:
                            yield PlannedRow(self, variant, model, dataset, instruction)


@dataclass(frozen=True)
class PlannedRow:
    """One row of a table under one variant: one run."""

    plan: Reproduction = field(repr=False)
    variant: str
    model: str
    dataset: str
    instruction: str

    @property
    def name(self) -> str:
        """The name of its folder."""
        return slug(f"{model_name(self.model)}-{self.dataset}-{self.instruction}-{self.variant}")

    @property
    def form(self) -> Literal["chat", "plain"]:
        own: Any = ModelName.of(model_name(self.model)).own_form
        other: Any = _OTHER[own]
        return own if self.plan.variants[self.variant].form == "own" else other

    def settings(self, source: str) -> dict[str, Any]:
        """Settings of :func:`leakmech.bench`; `source` is the data set."""
        settings = deepcopy(self.plan.settings)
        temperature = self.plan.variants[self.variant].temperature
        settings["decoding"] = settings.get("decoding", {}) | {"temperature": temperature}
        return settings | {"dataset": source, "instruction": self.instruction, "prompt_form": self.form}

    def impossible(self) -> str | None:
        """Why this row cannot be run and is left out; None where it can, as far as is known without the weights."""
        if self.plan.variants[self.variant].form == "own" or self.form == "plain":
            return None
        try:
            tokenizer = load_tokenizer(self.model)
        except ModelError:
            return None  # the run itself says what is wrong
        return None if tokenizer.chat_template else "its tokenizer has no chat template"


def _changed(values: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """`values` with each ``a.b=value`` put in; values are read as YAML."""
    for change in changes:
        path, sign, text = change.partition("=")
        *groups, last = path.split(".")
        place = values
        for group in groups:
            place = place.setdefault(group, {})
        if not sign or not last or not isinstance(place, dict):
            raise ConfigError(f"--set {change}: expected KEY=VALUE or GROUP.KEY=VALUE")
        place[last] = yaml.safe_load(text)
    return values


# -- what it would cost ------------------------------------------------------------------------------------------------

_SAMPLES = {"hexl": 60}


def plan_table(plan: Reproduction) -> Table:
    """Every row of the first variant, with an estimate of time and memory on one H100, and the sums of all variants."""
    first = next(iter(plan.variants))
    rows, seconds, unknown = [], 0.0, 0
    planned = list(plan.rows())
    for number, row in enumerate((row for row in planned if row.variant == first), start=1):
        shape, samples = shape_of(model_name(row.model)), _n_samples(plan, row.dataset)
        cells = [str(number), "3" if row.instruction == WITHOUT else "4", model_name(row.model), row.dataset, row.form]
        if shape is None or samples is None:
            unknown += 1
            rows.append([*cells, "–", "–", "–"])
            continue
        config = BenchConfig.parse(plan.settings)
        generations = samples * (5 if config.noise_floor else 4) * config.generations
        found = cost_of(shape, 4 * samples, generations)
        seconds += found.seconds
        rows.append([*cells, f"{generations:,}", f"{found.seconds / 60:.1f}", f"{found.memory / 1e9:.0f}"])
    counts = [f"{name}: {sum(row.variant == name for row in planned)}" for name in plan.variants]
    notes = [
        f"{len(rows)} rows, {seconds / 3600:.1f} hours together under one variant; variants ({', '.join(counts)} runs) "
        "are run one after the other. other form: where a base model has no chat template it is left out.",
        "minutes, GB: an ESTIMATE, nothing was measured on an H100. Parameters x tokens over the data sheet's "
        "bandwidth (3.35 TB/s) and 30 % of its bfloat16 peak (989 TFLOP/s), 1 ms a layer and step, 30 tokens an "
        "answer, 8 ms of Python a generation (experiments/cost.py). Within a factor of two or three. Downloads and "
        "building AEXL are not in it.",
    ]
    if unknown:
        notes.append(f"–: {unknown} rows whose model's shape or whose number of samples is not known beforehand.")
    header = ["#", "table", "model", "data set", "form", "generations", "minutes", "GPU memory, GB"]
    return Table(f"Planned rows, variant {first!r}", header, rows, notes)


def _n_samples(plan: Reproduction, dataset: str) -> int | None:
    source, limit = plan.datasets[dataset], plan.settings.get("limit")
    if source is None:
        known: int | None = AexlSettings.parse(plan.aexl).samples
    else:
        known = _SAMPLES.get(source)
    return known if known is None or limit is None else min(known, limit)


# -- running -----------------------------------------------------------------------------------------------------------


def dataset_sources(plan: Reproduction, out: Path) -> tuple[dict[str, str], list[str]]:
    """By name, what can be loaded, AEXL built if it is missing; and one line for each that cannot."""
    sources, failed = {}, []
    for name, given in plan.datasets.items():
        source = given or str(out / f"{name.lower()}.jsonl")
        try:
            if given is None and not Path(source).exists():
                print(f"{name}: is built first, {source}", flush=True)
                leakmech.build_aexl(source, progress=rich_progress, **plan.aexl)
            leakmech.load_dataset(source)
        except InterruptedRunError:
            raise
        except LeakmechError as error:
            failed.append(f"{name}: {error}")
        else:
            sources[name] = source
    return sources, failed


def run_missing(rows: Iterable[PlannedRow], sources: Mapping[str, str], out: Path) -> tuple[list[Path], list[str]]:
    """Paths of the finished runs, and one line for each way in which a model failed; rows without a data set wait."""
    finished: list[Path] = []
    failed: dict[str, int] = {}
    for row in rows:
        if row.dataset not in sources:
            continue
        reason = row.impossible()
        if reason is not None:
            print(f"{row.name}: left out, {reason}", flush=True)
            continue
        print(row.name, flush=True)
        settings = row.settings(sources[row.dataset])
        try:
            leakmech.bench(row.model, out=out / row.name, progress=rich_progress, **settings)
        except InterruptedRunError:
            raise
        except LeakmechError as error:
            line = f"{row.model}: {error}"
            failed[line] = failed.get(line, 0) + 1
        else:
            finished.append(out / row.name)
    return finished, [f"{line} ({n} runs)" for line, n in failed.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="hub ids, folders, or embedded:<name>; default: the paper's twelve")
    parser.add_argument("--config", type=Path, default=PAPER, help="YAML file with models, data sets and settings")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change it, e.g. settings.limit=10")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder of the runs and tables")
    parser.add_argument("--dry-run", action="store_true", help="list the rows with time and memory, and stop")
    arguments = parser.parse_args()
    plan = Reproduction.read(arguments.config, arguments.set, arguments.models)
    if arguments.dry_run:
        print(plan_table(plan).to_markdown())
        return
    for name in estimator_names(BenchConfig.parse(plan.settings).estimator):
        load_estimator(name)  # without it every row would fail
    sources, failed = dataset_sources(plan, arguments.out)
    if not sources:
        raise DatasetError("; ".join(failed))
    runs, more = run_missing(plan.rows(), sources, arguments.out)
    if runs:
        present(runs, sources, arguments.out)
    for line in failed + more:
        print(f"reproduce_paper: {line}", file=sys.stderr)
    sys.exit(1 if failed or more else 0)


# -- presenting --------------------------------------------------------------------------------------------------------


def present(runs: Sequence[Path], sources: Mapping[str, str], out: Path) -> None:
    """Tables 3 and 4, claims and figures of these runs, printed and written."""
    paper = paper_rows()
    rows = beside(load_rows(runs), paper)
    effects = instruction_effects(rows, margin=MARGIN)
    claims, checked_rows = claims_table(rows, paper)
    print(write_table(without_instruction(rows), table3(rows), out / "table3"))
    print(write_table(effects, [table4(effects, margin=MARGIN)], out / "table4"))
    print(write_table(checked_rows, [claims], out / "claims"))
    for file in draw(rows, sources, out):
        print(f"figure: {file}")


def draw(rows: Sequence[Row], sources: Mapping[str, str], out: Path) -> Iterator[Path]:
    """Figure 1, and for every data set Figure 2 and the leakage of single expressions, under the first setting."""
    tokens, counter = figure1.load_counter(figure1.SUBSTITUTE)
    lengths = figure1.injection_lengths(list(sources.values()), counter)
    figure1.draw(lengths, out / "figure1", tokenizer=tokens)
    yield out / "figure1.png"
    first = rows[0]["setting"]
    for dataset in sources:
        own = [row for row in without_instruction(rows) if row["dataset"] == dataset and row["setting"] == first]
        if not own:
            continue
        file = out / f"figure2-{dataset.lower()}.png"
        figure2.draw(figure2.smallest(own), file, dataset=dataset)
        yield file
        found = expressions.expression_leakage([Path(row["run"]) for row in own])
        file = out / f"expressions-{dataset.lower()}.png"
        expressions.draw(found, file, number=12)
        yield file


if __name__ == "__main__":
    run_script(main)
