"""What stands in a leaderboard: facts about a measured model, and per sample the sums that its statistics are made of.

Every statistic is a ratio of sums over samples (:mod:`leakmech.scoring.statistics`), and so is the difference of two
models. The sums of each sample are thus all that intervals and paired tests need: no text, no prompt, no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, StringConstraints

from leakmech.core.errors import RunDirectoryError
from leakmech.core.store import content_hash
from leakmech.core.terminal import literal
from leakmech.core.validation import CLOSED, checked, whole
from leakmech.reports.cells import short
from leakmech.runs.directory import RunDirectory
from leakmech.scoring.leakage import main_ratios, overall_leakage
from leakmech.scoring.paired import STATISTICS, Columns, statistic_names
from leakmech.scoring.records import leakage_scores, needed_columns, topic_free_scores
from leakmech.scoring.sentence import Cleaning
from leakmech.scoring.statistics import UnitRatio, ratio_columns
from leakmech.studies.benchmark.result import BenchResult

TOPIC_FREE = {
    "auc_el": "topic_free",
    "contrast": "topic_free_contrast",
    "valence_shift": "topic_free_valence_shift",
}
KEPT = (*STATISTICS, "contrast", *TOPIC_FREE.values())
"""Statistics that an entry can have; tilt is not one: it is compared on the same completions only."""
MOST_SAMPLES = 100_000
_LONGEST = 300

Line = Annotated[
    str,
    StringConstraints(min_length=1, max_length=_LONGEST),
    AfterValidator(lambda text: literal(text, keep="")),
]
"""A text of one line that steers no terminal."""
Count = Annotated[int, whole(1, 10**7)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Setting = Line | bool | Annotated[int, Field(ge=-(10**9), le=10**9)] | Number | None


@dataclass(frozen=True)
class Facts:
    """What was measured, and how. None stands for what is not known."""

    __pydantic_config__ = CLOSED

    name: Line
    """What it is called in tables."""
    model: Line
    dataset: Line
    dataset_hash: Line
    n_samples: Annotated[int, whole(1, MOST_SAMPLES)]
    generations: Count
    estimator: Line
    estimator_hash: Line
    cleaning: Cleaning
    family: Line | None = None
    """The architecture without what all causal models are called after."""
    n_parameters: Annotated[int, whole(1, 10**15)] | None = None
    revision: Line | None = None
    weights: Line | None = None
    changes: Annotated[tuple[Line, ...], Field(max_length=30)] = ()
    """What was done to model, prompts or decoding."""
    arrangement: Line | None = None
    prompt_form: Line | None = None
    decoding: Annotated[Mapping[Line, Setting], Field(max_length=30)] = field(default_factory=dict)
    seed: Annotated[int, whole(-(2**63), 2**64)] | None = None
    dtype: Line | None = None
    echo_similarity: Number | None = None
    encoder_hash: Line | None = None
    leakmech: Line | None = None
    date: Line | None = None


@dataclass(frozen=True, eq=False)
class Sums:
    """What the samples contribute to each statistic; `samples` is the hash of their ids in order."""

    samples: str
    ratios: Mapping[str, UnitRatio]

    def columns(self, statistic: str) -> Columns:
        """Those that a comparison about `statistic` takes sums of; a statistic that is not there is 0 over 0."""
        n = len(next(iter(self.ratios.values())).numerator)
        none = UnitRatio(np.zeros(n), np.zeros(n))
        return ratio_columns([self.ratios.get(name, none) for name in statistic_names(statistic)])


@dataclass(frozen=True)
class Source:
    """A finished run or a line of a file: its facts, and how its sums are read.

    `sums` takes the statistics that are wanted; `differs` is what names it among the cells of a sweep, `given` is how
    the user named it, `page` its own page.
    """

    facts: Facts
    given: str
    sums: Callable[[Sequence[str]], Sums]
    differs: Mapping[str, str] = field(default_factory=dict)
    page: Path | None = None


def source_of(
    run: str | Path | BenchResult,
    *,
    name: str | None = None,
    differs: Mapping[str, str] | None = None,
    cleaning: Cleaning | None = None,
) -> Source:
    """A finished benchmark run as a source; its scores are read when its sums are asked for.

    Raises
    ------
    RunDirectoryError
        It is not a finished benchmark run, or says about itself what cannot be.
    """
    result = run if isinstance(run, BenchResult) else BenchResult.load(run)
    policy = cleaning or result.summary.get("cleaning")
    named = name or result.path.resolve().name
    facts = checked(Facts, _facts(result, named, policy), where=f"{result.path}", error=RunDirectoryError)
    page = result.path / "report.html"
    # What is kept of a run until its turn comes is small: its summary is not.
    sums = partial(_sums, RunDirectory(result.path), facts.cleaning, bool(result.summary.get("no_mu_el")))
    return Source(facts, str(result.path), sums, differs or {}, page)


def _facts(result: BenchResult, name: str, policy: Any) -> dict[str, Any]:
    summary, record = result.summary, result.record
    config = _mapping(record.values.get("config"))
    model, marks = _mapping(record.fact("model")), record.fingerprint
    architecture = model.get("architecture")
    return {
        "name": name[:_LONGEST],
        "model": short(str(summary.get("model") or "unknown"))[:_LONGEST],
        "family": family_of(architecture) if isinstance(architecture, str) else None,
        "n_parameters": model.get("n_parameters"),
        "revision": model.get("revision"),
        "weights": model.get("weights_hash") or marks.get("weights"),
        "changes": list(_changes(summary, config)),
        "dataset": short(str(summary.get("dataset") or "unknown"))[:_LONGEST],
        "dataset_hash": marks.get("dataset") or "unknown",
        "n_samples": summary.get("n_samples"),
        "arrangement": summary.get("arrangement"),
        "prompt_form": summary.get("prompt_form"),
        "generations": summary.get("generations"),
        "decoding": _mapping(summary.get("decoding")),
        "seed": summary.get("seed") if record.command == "bench" else None,
        "dtype": summary.get("dtype"),
        "estimator": summary.get("estimator"),
        "estimator_hash": marks.get("estimator") or "unknown",
        "cleaning": policy,
        "echo_similarity": config.get("echo_similarity"),
        "encoder_hash": marks.get("encoder"),
        "leakmech": _mapping(record.environment.get("packages")).get("leakmech"),
        "date": record.environment.get("date"),
    }


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def family_of(architecture: str) -> str:
    """The family by the name of its class: ``Qwen2ForCausalLM`` is Qwen2, ``GPT2LMHeadModel`` is GPT2."""
    for ending in ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"):
        architecture = architecture.removesuffix(ending)
    return architecture


def _changes(summary: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """What makes a run another one than the plain model's, by the names that its settings have."""
    for key in ("adapter", "intervention", "instruction", "prompt_rewrite"):
        value = config.get(key)
        if value not in (None, "none"):
            folded = ", folded" if key == "intervention" and config.get("fold") else ""
            yield f"{key.replace('prompt_', '')} {short(str(value))}{folded}"[:_LONGEST]
    if "contrast" in summary:
        yield f"contrast {_mapping(summary['contrast']).get('method', '')}".strip()[:_LONGEST]


def _sums(run: RunDirectory, policy: Cleaning, shifts_only: bool, wanted: Sequence[str]) -> Sums:
    """From the scores of a run; with `shifts_only` without what it says that it has no number of."""
    frame = run.scores(needed_columns(policy))
    scores = leakage_scores(frame, policy)
    found = {"mu_el": overall_leakage(scores, pairing="index"), **main_ratios(scores)}
    free = topic_free_scores(frame, policy) if set(wanted) & set(TOPIC_FREE.values()) else None
    if free is not None:
        found |= {TOPIC_FREE[name]: ratio for name, ratio in main_ratios(free).items()}
    ratios = {name: found[name] for name in wanted if name in found}
    if shifts_only:
        ratios = {name: ratio for name, ratio in ratios.items() if name.endswith("valence_shift")}
    return Sums(content_hash(*scores.samples), ratios)
