"""Leakage as tasks of lm-evaluation-harness: ``leakmech_hexl`` and ``leakmech_aexl``.

    lm_eval run --include_path "$(leakmech lm-eval-path)" --tasks leakmech_hexl --model hf --model_args pretrained=… \\
        --apply_chat_template --system_instruction "You are a helpful assistant." --log_samples --output_path logs

The YAML files of ``lm_eval_tasks/`` name the functions of this module. A document is one prompt, asked `repeats` times;
a filter keeps all answers, and every metric is an aggregation over :class:`~leakmech.integrations.numbers.Answers`.
``--metadata '{"leakmech": {"estimator": "vader"}}'`` gives settings of ``leakmech score``. Nothing here imports
lm_eval.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leakmech.core.errors import ConfigError, DatasetError, LeakmechWarning
from leakmech.integrations.numbers import (
    AEXL_FILE,
    NUMBERS,
    Answers,
    leakage_numbers,
    no_numbers,
    settings_text,
    task_prompts,
    task_settings,
)
from leakmech.studies.benchmark.harness_logs import SETTINGS


def documents(dataset: str, *, task: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The prompts of a data set as the split ``test``; of the harness's metadata, the entry ``leakmech`` has settings.

    The harness also puts the arguments of the model into its metadata, so other entries are not ours to judge.
    """
    from datasets import Dataset  # here, since it takes long to import

    given = metadata.get(SETTINGS) or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{task}: metadata {SETTINGS!r} must be an object of settings, found {given!r}")
    config = task_settings({"dataset": dataset, **given}, where=task)
    settings = settings_text(config)
    rows = [vars(prompt) | {"settings": settings} for prompt in task_prompts(config)]
    return {"test": Dataset.from_list(rows)}


def hexl(**metadata: Any) -> dict[str, Any]:
    """Documents of ``leakmech_hexl``."""
    return documents("hexl", task="leakmech_hexl", metadata=metadata)


def aexl(**metadata: Any) -> dict[str, Any]:
    """Documents of ``leakmech_aexl``."""
    return documents(AEXL_FILE, task="leakmech_aexl", metadata=metadata)


def process_results(document: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, Answers]:
    """What every metric gets of a document: all of its answers."""
    (texts,) = results
    answers = Answers(document["sample"], document["condition"], tuple(texts), document["settings"])
    return dict.fromkeys(NUMBERS, answers)


def aggregation(name: str) -> Callable[[Sequence[Answers]], float]:
    """The aggregation that makes one of the numbers; NaN, and a warning, where answers were not asked for (a limit)."""

    def aggregate(answers: Sequence[Answers]) -> float:
        try:
            return leakage_numbers(tuple(answers))[name]
        except DatasetError as error:
            warnings.warn(f"leakmech: no numbers: {error}", LeakmechWarning, stacklevel=2)
            return no_numbers()[name]

    return aggregate
