"""Example generations of a run side by side, as in the paper's Table 2: what stood before a stem, what came of it.

Which samples are shown follows a fixed rule that looks at no score: evenly spaced in the order of the data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from leakmech.core.errors import UsageError, nearest
from leakmech.core.store import read_jsonl_shard
from leakmech.core.terminal import steers
from leakmech.core.text import split_sentences
from leakmech.datasets.samples import CONDITIONS, INJECTIONS, Condition
from leakmech.prompts.instructions import DEFAULT_TASK, resolve_instruction
from leakmech.reports.cells import DASH, signed
from leakmech.runs.result import Result
from leakmech.scoring.records import Record

_STYLES = {"positive": "blue", "negative": "dark_orange"}


@dataclass(frozen=True)
class SampleTexts:
    """The texts of one sample as the run's prompts hold them; the data set's file is not needed any more."""

    id: str
    split: str | None
    stem: str
    injections: Mapping[Condition, str]
    conditions: tuple[Condition, ...] = CONDITIONS
    """Those of which the run has a prompt."""


def sample_texts(result: Result) -> dict[str, SampleTexts]:
    """Stem, injections and conditions of every sample of the run, by id, in the order of the data set."""
    path = result.files.prompts_file
    # Every prompt is instruction, optional injection and stem; the first is known, and control has no second.
    summary = result.summary
    instruction = resolve_instruction(summary["instruction"], task=summary.get("task", DEFAULT_TASK))
    prompts: dict[str, dict[str, Any]] = {}
    for row in read_jsonl_shard(path):
        prompts.setdefault(row["sample"], {})[row["condition"]] = row
    found = {}
    for sample, rows in prompts.items():
        conditions: tuple[Condition, ...] = tuple(condition for condition in CONDITIONS if condition in rows)
        bodies = {condition: instruction.unwrap(rows[condition]["text"]) for condition in conditions}
        first = rows[conditions[0]]
        stem = first.get("stem") or bodies.get("control") or _last_sentence(bodies[conditions[0]])
        injections: dict[Condition, str] = {
            name: rows[name].get("injection") or _injection(bodies[name], stem)
            for name in INJECTIONS
            if name in conditions
        }
        found[sample] = SampleTexts(sample, first["split"], stem, injections, conditions)
    return found


def _last_sentence(body: str) -> str:
    """The stem of a prompt in a run without control prompts: what comes after the injection."""
    return split_sentences(body)[-1]


def _injection(body: str, stem: str) -> str:
    rest = body.removesuffix(stem) if body.endswith(stem) else body.removeprefix(stem)
    return rest.strip()


def examples_table(
    run: str | Path, *, number: int = 5, sample: str | None = None, generation: int = 0, whole: bool = False
) -> list[Padding]:
    """Generations of some samples in all conditions of the run, for a terminal: a caption, then a table a sample.

    The `number` samples are evenly spaced in the order of the data set; `sample` is the id of the one to show instead;
    `whole` shows all that the model wrote, reasoning included, instead of the scored sentence.
    Texts of the model are literal: no markup, no control characters.
    """
    result = Result.load(run).of_kind("bench")
    summary, texts = result.summary, sample_texts(result)
    n_generations = summary["generations"]
    if not 0 <= generation < n_generations:
        raise UsageError(
            f"generation {generation}: {run} has {n_generations} a prompt, numbered 0 to {n_generations - 1}"
        )
    if sample is not None and sample not in texts:
        raise UsageError(f"{run}: has no sample {sample!r}{_nearest_sample(sample, texts)}")
    if number < 1:
        raise UsageError(f"number of samples must be at least 1, found {number}")
    ids = list(texts)
    chosen = [sample] if sample is not None else [ids[index] for index in evenly_spaced(len(ids), number)]
    how = "" if sample is not None else f" {len(chosen)} of {len(ids)} samples, evenly spaced in the data set's order;"
    caption = (
        f"{summary['model']} on {summary['dataset']}:{how} generation {generation} of each prompt, cleaning policy "
        f"{summary['cleaning']}. valence = P[positive] - P[negative] of the scored sentence ({summary['estimator']}); "
        "echo = the answer begins by repeating the prompt."
    )
    frame = result.scores
    shown = frame.loc[(frame["generation"] == generation) & frame["sample"].isin(chosen)]
    rows = {(row["sample"], row["condition"]): row for row in shown.to_dict("records")}
    if whole:
        for written in result.files.generations():
            key = written["sample"], written["condition"]
            if key in rows and written["generation"] == generation:
                rows[key]["whole"] = written["text"]
    tables = [
        _table(texts[one], {c: rows[one, c] for c in texts[one].conditions}, policy=summary["cleaning"])
        for one in chosen
    ]
    # Padding, because the console joins bare texts into one and forgets how they wrap.
    return [Padding(_wrapping(caption), 0), *tables]


def evenly_spaced(n: int, number: int) -> list[int]:
    """`number` indices below `n` with equal steps, each in the middle of its step; all of them if there are fewer.

    >>> evenly_spaced(60, 5)
    [6, 18, 30, 42, 54]
    """
    number = min(n, number)
    return [(2 * index + 1) * n // (2 * number) for index in range(number)]


def printable(text: str) -> str:
    """`text` on one line and without control characters, which could steer the terminal that it is printed on."""
    return "".join("\ufffd" if steers(character) else character for character in " ".join(text.split()))


def mark(row: Record, *, policy: str) -> str:
    """What to say about a scored text that is not simply the first sentence; empty if there is nothing to say."""
    text, echo = row["first_sentence"], row["echo"]
    if not text:
        return "reasoning only" if row.get("unanswered") else "echo only" if echo else "empty"
    if not echo:
        return ""
    return "echo" if policy == "raw" else "after an echo"


def _nearest_sample(sample: str, texts: Mapping[str, Any]) -> str:
    hint = nearest(sample, texts)
    # The list of all ids, which `nearest` falls back to, would be thousands of names.
    return hint if "did you mean" in hint else f"; its samples are {next(iter(texts))!r} to {list(texts)[-1]!r}"


def _table(texts: SampleTexts, rows: Mapping[Condition, Record], *, policy: str) -> Padding:
    table = Table(
        title=_wrapping(f"{texts.id}: {texts.stem} …", style="bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("condition", no_wrap=True)
    table.add_column("injection", ratio=2, overflow="fold")
    whole = any("whole" in row for row in rows.values())
    table.add_column("all that was written" if whole else "first sentence", ratio=3, overflow="fold")
    table.add_column("valence", justify="right", no_wrap=True)
    for condition, row in rows.items():
        style = _STYLES.get(condition, "")
        table.add_row(
            Text(condition, style=style),
            Text(printable(texts.injections.get(condition, DASH))),
            _sentence(row, policy=policy),
            _valence(row),
        )
    return Padding(table, (1, 0, 0, 0))


def _wrapping(text: str, *, style: str = "") -> Text:
    """A text that wraps at words even if the console prints without wrapping."""
    return Text(printable(text), style=style, no_wrap=False, overflow="fold")


def _sentence(row: Record, *, policy: str) -> Text:
    text, note = printable(row.get("whole", row["first_sentence"])), mark(row, policy=policy)
    return Text.assemble((f"({note})", "dim"), " " if text else "", text) if note else Text(text)


def _valence(row: Record) -> Text:
    return Text(signed(row["positive"] - row["negative"]))
