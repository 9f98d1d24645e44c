"""What the tasks of evaluation harnesses share: the prompts of a data set, and the numbers of the answers to them.

A harness asks each prompt K times and hands all answers to one aggregation. Numbers are those of ``leakmech score`` on
the same texts because they are made by it: the answers are written to a file, which is scored into a run directory
that is read and thrown away. Answers that a harness does not have (a limit, a request that failed) count as not scored.
"""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from leakmech.core.errors import ConfigError, DatasetError, LeakmechWarning
from leakmech.core.store import write_jsonl
from leakmech.datasets.samples import CONDITIONS, Condition
from leakmech.studies.benchmark.harness_logs import SETTINGS
from leakmech.studies.benchmark.measurement import arranged_samples
from leakmech.studies.benchmark.rescoring import prompt_writer, score
from leakmech.studies.benchmark.settings import ScoreConfig

GENERATIONS = 10
"""Answers to a prompt, as in ``leakmech bench``; lm-evaluation-harness has it in the tasks' YAML."""
AEXL_FILE = "aexl.jsonl"
"""The data set of the AEXL tasks by default: what ``leakmech data build-aexl --out .`` writes."""
NUMBERS = (
    "mu_el",
    "mu_el_low",
    "mu_el_high",
    "auc_el",
    "auc_el_low",
    "auc_el_high",
    "valence_shift",
    "valence_shift_low",
    "valence_shift_high",
    "mu_l",
    "topic_rate",
    "topic_free_auc_el",
    "echo_rate",
    "empty_rate",
)
"""The numbers that a harness shows; ``_low`` and ``_high`` are the ends of the interval (95 %, over samples)."""


@dataclass(frozen=True)
class Answers:
    """All answers to one prompt; None stands for one that is not there."""

    sample: str
    condition: str
    texts: tuple[str | None, ...]
    settings: str
    """How they are scored: settings of ``leakmech score`` as JSON, the same for all prompts of a task."""

    def __str__(self) -> str:
        """What a log holds in place of the texts, which it has elsewhere."""
        return f"{len(self.texts)} answers to {self.sample}/{self.condition}"


def task_settings(given: Mapping[str, Any], *, where: str) -> ScoreConfig:
    """The settings of a task, checked; ConfigError or DatasetError for one that a harness cannot carry out."""
    config = ScoreConfig.parse(given, where=where)
    if config.dataset == AEXL_FILE and not Path(AEXL_FILE).exists():
        raise DatasetError(
            f"{where}: there is no {AEXL_FILE} here; make it with leakmech data build-aexl --out ., or name another "
            "dataset"
        )
    if config.arrangement != "before":
        raise ConfigError(f"{where}: tasks put injections before the stem; measure others with leakmech bench")
    if prompt_writer(config).resolved_instruction.system:
        raise ConfigError(
            f"{where}: instruction {config.instruction!r} stands in the system role, which the harness sets; choose "
            "another"
        )
    return config


def settings_text(config: ScoreConfig) -> str:
    """The settings that decide numbers, as one text that a log can hold; the harness knows the model."""
    return json.dumps({name: value for name, value in config.identity().items() if name != "model"}, sort_keys=True)


@dataclass(frozen=True)
class TaskPrompt:
    """A prompt as a harness asks it."""

    sample: str
    condition: Condition
    text: str


def task_prompts(config: ScoreConfig) -> Iterator[TaskPrompt]:
    """All prompts, sample by sample: a limit that is a multiple of four leaves whole samples."""
    writer = prompt_writer(config)
    for sample in arranged_samples(config).take(config.limit):
        for condition in CONDITIONS:
            yield TaskPrompt(sample.id, condition, writer.unrendered(sample, condition).text)


@lru_cache(maxsize=2)  # harnesses ask for one number after the other
def leakage_numbers(answers: tuple[Answers, ...]) -> Mapping[str, float]:
    """Every one of :data:`NUMBERS`, NaN for one that cannot be computed.

    DatasetError where there is nothing to compare: no answers, or only those of control prompts.
    """
    if not answers:
        raise DatasetError("no answers")
    _warn_of_repetition(answers)
    settings = json.loads(answers[0].settings)
    with tempfile.TemporaryDirectory(prefix="leakmech-") as folder:
        file = Path(folder) / "answers.jsonl"
        write_jsonl(file, _rows(answers))
        try:
            summary = score(file, out=Path(folder) / "run", **{**settings, "allow_missing": True}).summary
        except DatasetError as error:
            raise DatasetError(str(error).removeprefix(f"{file}: ")) from error
    return _shown(summary)


def no_numbers() -> dict[str, float]:
    """NaN for every one of :data:`NUMBERS`."""
    return dict.fromkeys(NUMBERS, math.nan)


def _rows(answers: tuple[Answers, ...]) -> Iterator[dict[str, Any]]:
    for prompt in answers:
        for generation, text in enumerate(prompt.texts):
            yield {"sample": prompt.sample, "condition": prompt.condition, "generation": generation, "text": text}


def _warn_of_repetition(answers: tuple[Answers, ...]) -> None:
    several = [prompt.texts for prompt in answers if len(prompt.texts) > 1]
    if several and all(len(set(texts)) == 1 for texts in several):
        warnings.warn(
            f"{SETTINGS}: the answers to each prompt are all the same, as with greedy decoding or from a cache of "
            "requests; leakage is about answers that are sampled",
            LeakmechWarning,
            stacklevel=3,
        )


def _shown(summary: Mapping[str, Any]) -> dict[str, float]:
    """:data:`NUMBERS` from the summary of a run."""
    overall = summary["overall"]
    found: dict[str, float | None] = {"mu_l": overall["mu_l"], "topic_rate": overall.get("topic_rate")}
    for name in ("mu_el", "auc_el", "valence_shift"):
        low, high = overall[f"{name}_ci"] or (None, None)
        found |= {name: overall[name], f"{name}_low": low, f"{name}_high": high}
    found["topic_free_auc_el"] = overall.get("topic_free", {}).get("auc_el")
    found |= {name: summary["by_cleaning"][summary["cleaning"]][name] for name in ("echo_rate", "empty_rate")}
    return {name: math.nan if (value := found[name]) is None else float(value) for name in NUMBERS}
