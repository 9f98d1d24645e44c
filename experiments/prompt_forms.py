"""Does the model do the task, and what does leakage consist of? Prompt form x temperature, and paraphrases of the task.

    python experiments/prompt_forms.py --model embedded:smollm2-135m-instruct --out figures/prompt_forms

A row for each prompt form (plain, prefill, chat; what the tokenizer has no template for is left out) at each of
``--temperatures``: 1, the checkpoint's own (if it names another), or a number; and, in the form ``--paraphrase-form``,
for each of five paraphrases of "Complete the sentence" beside the original. A form in which few answers are about the
injection, and few could not have been said without it, is one in which leakage numbers are about leakage. Below the
table stands the spread of mu_EL (index pairs) over the paraphrases, which the wording alone accounts for:

    spread = max - min,    sd = standard deviation,    over the task texts (the original one included).

The perplexity is that of the scored answers as the end of the stem, after the plain control prompt and without the
repetition penalty, for all rows alike: an answer that does not go on from the stem is improbable there. Shares of
answers on task and tilt are measured at temperature 1 in the original wording; tilt takes the completions of the first
row for all. Every row is a run under ``--runs``, so an interrupted experiment goes on where it was. Prints markdown;
writes CSV and markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paper import Row, run_script, write_table

import leakmech
from leakmech.core.store import slug
from leakmech.datasets.samples import load_dataset
from leakmech.generation.decoding import own_temperature
from leakmech.generation.variants import ModelVariant
from leakmech.models.load import LoadedModel, load_model
from leakmech.prompts.instructions import DEFAULT_TASK, TASKS
from leakmech.prompts.render import Prompting, Renderer
from leakmech.reports.cells import number, percent, with_interval
from leakmech.reports.tables import Column, Table, value_of
from leakmech.side_effects.answers import Answers
from leakmech.side_effects.fluency import answer_quality
from leakmech.studies.benchmark.result import BenchResult

FORMS = ("plain", "prefill", "chat")


def _estimated(name: str, show: Any = number) -> Column:
    return lambda row: with_interval(row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high"), show)


COLUMNS: dict[str, Column] = {
    "form": value_of("form"),
    "task": value_of("task"),
    "temperature": value_of("temperature"),
    "about the injection": _estimated("topic_rate", percent),
    "echo": value_of("echo_rate", percent),
    "empty": value_of("empty_rate", percent),
    "mu_EL": _estimated("mu_el"),
    "all pairs": _estimated("auc_el"),
    "topic-free all pairs": _estimated("topic_free_auc_el"),
    "perplexity": value_of("perplexity", number),
    "distinct 2-grams": value_of("distinct_2", number),
    "on task": _estimated("on_task_rate", percent),
    "tilt, d_z": _estimated("tilt_d_z"),
}


def run_forms(loaded: LoadedModel, arguments: argparse.Namespace) -> list[Row]:
    """A row for every form and temperature, then for every paraphrase."""
    forms = [form for form in FORMS if form == "plain" or loaded.has_chat_template]
    # The same draws twice, where the checkpoint names no temperature of its own or names 1.
    same = own_temperature(loaded.model) in (None, 1.0)
    temperatures = [1.0, *(t for t in arguments.temperatures if t not in (1.0, *(["model"] if same else [])))]
    grid: list[tuple[str, str, float | str]] = [(form, DEFAULT_TASK, t) for t in temperatures for form in forms]
    paraphrased = arguments.paraphrase_form
    grid += [(paraphrased, task, 1.0) for task in TASKS if task != DEFAULT_TASK]
    yardstick = _Yardstick(loaded, arguments)
    return [yardstick.row(*cell) for cell in grid]


class _Yardstick:
    """Measures every cell of the experiment with the same model, samples and likelihoods."""

    def __init__(self, loaded: LoadedModel, arguments: argparse.Namespace) -> None:
        self.loaded, self.arguments = loaded, arguments
        self.variant = ModelVariant(loaded)
        self.plain = Renderer(loaded.tokenizer, Prompting("plain"))
        samples = load_dataset(arguments.dataset).take(arguments.limit)
        self.controls = {sample.id: self.plain.prompt(sample, "control") for sample in samples}

    def row(self, form: str, task: str, temperature: float | str) -> Row:
        """Run (or read) one cell, and give its numbers."""
        result = self._run(form, task, temperature)
        return {"form": form, "task": task} | numbers(result) | self._fluency(result)

    def _run(self, form: str, task: str, temperature: float | str) -> BenchResult:
        a = self.arguments
        first = a.runs / _name(self.loaded, FORMS[0], DEFAULT_TASK, 1.0)
        out = a.runs / _name(self.loaded, form, task, temperature)
        more: dict[str, Any] = {}
        if (task, temperature) == (DEFAULT_TASK, 1.0):
            more = {"on_task": True, "tilt": True, "tilt_completions": a.completions}
            more |= {} if out == first else {"tilt_from": str(first)}
        return leakmech.bench(
            self.loaded.model,
            tokenizer=self.loaded.tokenizer,
            out=out,
            dataset=a.dataset,
            limit=a.limit,
            generations=a.generations,
            estimator=a.estimator,
            seed=a.seed,
            prompt_form=form,
            task=task,
            decoding={"temperature": temperature},
            **more,
        )

    def _fluency(self, result: BenchResult) -> Row:
        quality = answer_quality(self.variant, Answers.of_run(result), controls=self.controls, renderer=self.plain)
        totals = quality.columns.sum(axis=0)
        different, of_all = totals[6:8]  # 2-grams
        return {"perplexity": float(np.exp(totals[0] / totals[1])), "distinct_2": float(different / of_all)}


def _name(loaded: LoadedModel, form: str, task: str, temperature: float | str) -> str:
    return f"{slug(loaded.name)}-{form}-{task}-T{temperature}"


def numbers(result: BenchResult) -> Row:
    """The columns of a row that a summary has; None for what could not be computed."""
    summary, overall = result.summary, result.summary["overall"]
    free = overall.get("topic_free") or {}
    policy = summary["by_cleaning"][summary["cleaning"]]
    given = summary.get("temperature_from")
    tilt = (summary.get("tilt") or {}).get("per_token") or {}
    return {
        "temperature": f"{summary['decoding']['temperature']:g}" + (f" ({given})" if given else ""),
        "echo_rate": policy["echo_rate"],
        "empty_rate": policy["empty_rate"],
        **_ends(overall, "topic_rate"),
        **_ends(overall, "mu_el"),
        **_ends(overall, "auc_el"),
        **{f"topic_free_{name}": value for name, value in _ends(free, "auc_el").items()},
        **_ends(overall, "on_task_rate"),
        **{f"tilt_{name}": value for name, value in _ends(tilt, "d_z").items()},
        "run": str(result.path),
    }


def _ends(values: Mapping[str, Any], name: str) -> Row:
    low, high = values.get(f"{name}_ci") or (None, None)
    return {name: values.get(name), f"{name}_low": low, f"{name}_high": high}


def spread(rows: Sequence[Row], form: str) -> str:
    """How far the wording of the task alone moves mu_EL, in a sentence."""
    chosen = {row["task"]: row["mu_el"] for row in rows if row["form"] == form and row["temperature"] == "1"}
    values = {task: value for task, value in chosen.items() if value is not None}
    if len(values) < 2:
        return f"Paraphrases of the task in {form} form: fewer than two have a mu_EL."
    lowest, highest = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    texts = [f'"{TASKS[task]}" ({values[task]:.3f})' for task in (lowest, highest)]
    return (
        f"mu_EL over {len(values)} wordings of the task, {form} form: from {texts[0]} to {texts[1]}, spread "
        f"{values[highest] - values[lowest]:.3f}, sd {np.std(list(values.values()), ddof=1):.3f}."
    )


def _temperature(text: str) -> float | str:
    return text if text == "model" else float(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct", help="hub id, folder or embedded:<name>")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto")
    parser.add_argument("--dataset", default="hexl", help="samples: built-in name or file")
    parser.add_argument("--limit", type=int, help="use only the first N samples")
    parser.add_argument("--generations", type=int, default=10, help="generations per prompt (K)")
    parser.add_argument("--completions", type=int, default=16, help="completions of a stem for tilt")
    parser.add_argument(
        "--temperatures", nargs="+", type=_temperature, default=[1.0, "model"], help="numbers, or model: its own"
    )
    parser.add_argument("--estimator", default="embedded", help="expression estimator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--paraphrase-form", choices=FORMS, default="plain", help="the form that paraphrases are put in"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/prompt_forms"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=Path("figures/prompt_forms"), help="where to write, without suffix")
    arguments = parser.parse_args()
    loaded = load_model(arguments.model, dtype=arguments.dtype)
    rows = run_forms(loaded, arguments)
    title = f"{loaded.name} on {arguments.dataset}: prompt forms, temperatures and wordings of the task"
    table = Table.of(title, rows, COLUMNS, [spread(rows, arguments.paraphrase_form)])
    print(write_table(rows, [table], arguments.out))


if __name__ == "__main__":
    run_script(main)
