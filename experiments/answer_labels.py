"""What do answers do: complete the stem, or talk about the injection, or about the text? And does `topic` see it?

``draw`` takes answers of finished runs of ``bench`` (one a prompt form, on the same samples), the same number of each
form and polarity and one a sample and form, and writes them twice in random order: ``--key`` with form and condition,
and ``--sheet`` without, for a reader who labels. ``fill`` puts the labels of a sheet into the key. ``table`` says how
far two readings agree, what share of each form's answers has which label, and how well "on the injection"
(:mod:`leakmech.scoring.topic`) finds the answers that were labelled so. Definitions of the labels, who read, and
results: ``experiments/data/answer_labels.md``.

    python experiments/answer_labels.py draw RUN_PLAIN RUN_CHAT --key key.csv --sheet sheet.csv
    python experiments/answer_labels.py fill sheet.csv --key key.csv --reading pass1
    python experiments/answer_labels.py table
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from paper import run_script
from scipy import stats

import leakmech
from leakmech.core.errors import DatasetError, UsageError
from leakmech.core.seeds import numpy_generator
from leakmech.core.store import write_text
from leakmech.datasets.samples import POLARITIES
from leakmech.reports.cells import number, percent, with_interval
from leakmech.reports.tables import Table
from leakmech.runs.result import Result
from leakmech.scoring.records import column
from leakmech.scoring.topic import TOPIC_SHARE
from leakmech.studies.annotation.agreement import cohen

LABELS = ("completes", "injection", "comments", "other")
READINGS = ("pass1", "pass2")
KEY = Path(__file__).parent / "data" / "answer_labels.csv"
SHOWN = ("number", "stem", "injection", "text")

Flags = Bool[np.ndarray, " answers"]


# -- draw ------------------------------------------------------------------------------------------------------------


def draw(runs: Sequence[Result], *, n: int, seed: int) -> pd.DataFrame:
    """Draw `n` scored answers in random order, as many of each run and polarity, one a sample and run."""
    each, rest = divmod(n, len(runs) * len(POLARITIES))
    if rest or not each:
        raise UsageError(f"{n} answers cannot be shared among {len(runs)} runs and {len(POLARITIES)} polarities")
    forms = [run.summary["prompt_form"] for run in runs]
    if len(set(forms)) < len(forms):
        raise UsageError(f"the runs have the prompt forms {', '.join(forms)}: give one run a form")
    drawn = pd.concat([_of_run(run, each=each, seed=seed) for run in runs])
    order = numpy_generator("answer labels, order", seed).permutation(len(drawn))
    return drawn.iloc[order].assign(number=np.arange(1, len(drawn) + 1), **dict.fromkeys(READINGS, ""))


def _of_run(run: Result, *, each: int, seed: int) -> pd.DataFrame:
    """Draw answers of one run: samples in random order, the first ones for one polarity, the next for the other."""
    form, dataset = run.summary["prompt_form"], leakmech.load_dataset(run.summary["dataset"])
    samples = {sample.id: sample for sample in dataset}
    scores = run.scores.loc[lambda frame: frame["positive"].notna() & ~frame["resampled"]]
    generator = numpy_generator("answer labels", seed, form)
    found = []
    free = [str(name) for name in generator.permutation(np.unique(scores["sample"]))]
    for condition in POLARITIES:
        own = dict(list(scores[scores["condition"] == condition].groupby("sample")))
        chosen = [name for name in free if name in own][:each]
        if len(chosen) < each:
            raise UsageError(f"{run.path}: has too few samples for {each} answers of each polarity, one a sample")
        free = [name for name in free if name not in chosen]
        for name in chosen:
            row = own[name].iloc[generator.integers(len(own[name]))]
            found.append(
                {
                    "sample": name,
                    "condition": condition,
                    "form": form,
                    "generation": int(row["generation"]),
                    "stem": samples[name].stem,
                    "injection": samples[name].injection(condition),
                    "text": row["first_sentence"],
                    "on_injection": bool(row[column(run.summary["cleaning"], f"topic_{condition}")] <= TOPIC_SHARE),
                }
            )
    return pd.DataFrame(found)


def fill(key: pd.DataFrame, sheet: pd.DataFrame, reading: str) -> pd.DataFrame:
    """Put the labels of a sheet, found by number, into the column of one reading."""
    labels = sheet.set_index("number")["label"].str.strip()
    wrong = labels[~labels.isin(LABELS)]
    if len(wrong):
        raise DatasetError(
            f"sheet: number {wrong.index[0]} has the label {wrong.iloc[0]!r}; labels: {', '.join(LABELS)}"
        )
    if set(labels.index) != set(key["number"]):
        raise DatasetError("sheet: has other numbers than the key")
    return key.assign(**{reading: key["number"].map(labels)})


# -- table -----------------------------------------------------------------------------------------------------------


def agreement(key: pd.DataFrame) -> tuple[float, float]:
    """Compute the share of answers with the same label in both readings, and Cohen's kappa."""
    first, second = ([LABELS.index(label) for label in key[name]] for name in READINGS)
    kappa = cohen(np.array(first, float), np.array(second, float), categories=range(len(LABELS)))
    return float(np.mean(np.equal(first, second))), kappa


def tables(key: pd.DataFrame) -> list[Table]:
    """The confusion of the readings, shares by form, and "on the injection" against the label of either reading."""
    same, kappa = agreement(key)
    confusion = pd.crosstab(key["pass1"], key["pass2"]).reindex(index=LABELS, columns=LABELS, fill_value=0)
    return [
        Table(
            f"{len(key)} answers, first reading (rows) and second (columns)",
            ["", *LABELS],
            [[label, *map(str, confusion.loc[label])] for label in LABELS],
            [f"the same label: {percent(same)}; Cohen's kappa {number(kappa)}"],
        ),
        Table(
            "Share of answers with each label [95 %, Wilson]",
            ["form", "reading", "n", *LABELS],
            [
                [str(form), reading, str(len(own)), *(_share(_labelled(own, reading, label)) for label in LABELS)]
                for form, own in key.groupby("form", sort=False)
                for reading in READINGS
            ],
        ),
        Table(
            "Answers that are on the injection by the sentence encoder, against the label `injection` [95 %, Wilson]",
            ["form", "reading", "flagged", "labelled", "precision", "recall"],
            [
                [str(name), reading, *_flag(own["on_injection"].to_numpy(bool), _labelled(own, reading, "injection"))]
                for name, own in [*key.groupby("form", sort=False), ("all", key)]
                for reading in READINGS
            ],
        ),
    ]


def _labelled(key: pd.DataFrame, reading: str, label: str) -> Flags:
    return np.array([own == label for own in key[reading]], dtype=bool)


def _flag(flagged: Flags, labelled: Flags) -> list[str]:
    return [str(flagged.sum()), str(labelled.sum()), _share(labelled[flagged]), _share(flagged[labelled])]


def _share(hits: Flags) -> str:
    if not len(hits):
        return number(None)
    ends: Any = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return with_interval(float(hits.mean()), ends.low, ends.high)


def read_key(path: Path) -> pd.DataFrame:
    """Read a key; DatasetError if a column is missing."""
    frame = pd.read_csv(path, dtype=dict.fromkeys(("sample", "text", *READINGS), str), keep_default_na=False)
    missing = {"number", "form", "text", "on_injection", *READINGS} - set(frame)
    if missing:
        raise DatasetError(f"{path}: has no column {sorted(missing)[0]!r}")
    return frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    own = {name: commands.add_parser(name) for name in ("draw", "fill", "table")}
    own["draw"].add_argument("runs", type=Path, nargs="+", help="finished runs of bench, one a prompt form")
    own["draw"].add_argument("--n", type=int, default=120)
    own["draw"].add_argument("--seed", type=int, default=0)
    own["draw"].add_argument("--sheet", type=Path, required=True, help="what the reader gets")
    own["fill"].add_argument("sheet", type=Path, help="with a label in the column `label`")
    own["fill"].add_argument("--reading", choices=READINGS, required=True)
    for command in own.values():
        command.add_argument("--key", type=Path, default=KEY)
    arguments = parser.parse_args()
    runs: dict[str, Callable[[argparse.Namespace], None]] = {"draw": _draw, "fill": _fill, "table": _table}
    runs[arguments.command](arguments)


def _draw(arguments: argparse.Namespace) -> None:
    runs = [Result.load(path).of_kind("bench") for path in arguments.runs]
    key = draw(runs, n=arguments.n, seed=arguments.seed)
    sheet = key[list(SHOWN)].assign(label="")
    write_text(arguments.key, key[["number", *key.columns.drop("number")]].to_csv(index=False))
    write_text(arguments.sheet, sheet.to_csv(index=False))


def _fill(arguments: argparse.Namespace) -> None:
    sheet = pd.read_csv(arguments.sheet, dtype={"label": str}, keep_default_na=False)
    write_text(arguments.key, fill(read_key(arguments.key), sheet, arguments.reading).to_csv(index=False))


def _table(arguments: argparse.Namespace) -> None:
    key = read_key(arguments.key)
    unread = [reading for reading in READINGS if set(key[reading]) - set(LABELS)]
    if unread:
        raise DatasetError(f"{arguments.key}: {unread[0]} is not complete; fill it from a sheet")
    print("\n\n".join(table.to_markdown() for table in tables(key)))


if __name__ == "__main__":
    run_script(main)
