"""The command that repeats a benchmark run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from leakmech.studies.benchmark.settings import BenchConfig, ScoreConfig, ScoringConfig

_OPTIONS = {
    "model": "--model",
    "dataset": "--dataset",
    "generations": "--generations",
    "seed": "--seed",
    "adapter": "--adapter",
    "revision": "--revision",
    "estimator": "--estimator",
    "encoder": "--encoder",
    "limit": "--limit",
    "instruction": "--instruction",
    "arrangement": "--arrangement",
    "prompt_rewrite": "--prompt-rewrite",
    "prompt_form": "--prompt-form",
    "cleaning": "--cleaning",
    "decoding.temperature": "--temperature",
    "decoding.max_new_tokens": "--max-new-tokens",
}
_SWITCHES: dict[str, dict[bool, str]] = {
    "stop_at_first_sentence": {True: "--first-sentence-stop", False: "--full-length"},
    "allow_missing": {True: "--allow-missing"},
}
_ALWAYS_SAID = ("model", "dataset", "generations", "seed")
_COMMANDS: dict[str, type[ScoringConfig]] = {"bench": BenchConfig, "score": ScoreConfig}


@dataclass(frozen=True)
class Reproduction:
    """A command line, and the YAML file it reads where some setting has no option of its own (else None)."""

    command: str
    settings: str | None


def reproduction(record: Mapping[str, Any], *, dtype: str | None) -> Reproduction:
    """How to repeat the run that ``run.json`` describes: what identifies it, and what differs from the defaults.

    Parameters
    ----------
    record
        The content of ``run.json``.
    dtype
        Number format of the model; None where the texts were generated elsewhere.
    """
    command = record.get("command", "bench")
    defaults = _flat_settings(_COMMANDS[command].parse({}).identity())
    config = _flat_settings(record["config"])
    words, others = [], {}
    for key in sorted(config, key=lambda key: _ALWAYS_SAID.index(key) if key in _ALWAYS_SAID else len(_ALWAYS_SAID)):
        value = config[key]
        if key not in _ALWAYS_SAID and key in defaults and value == defaults[key]:
            continue
        if key in _OPTIONS and value is not None:
            words += [_OPTIONS[key], str(value)]
        elif key == "system":
            words += ["--system", "none" if value is None else value]
        elif key in _SWITCHES and value is not None:
            words += [_SWITCHES[key][value]]
        else:
            others[key] = value
    words += ["--dtype", dtype] if dtype else []
    start = ["leakmech", command]
    if command == "score":
        start.append(record["source"])
        words += [word for pair in record["columns"].items() for word in ("--column", "=".join(pair))]
    if others:
        start += ["--config", "settings.yaml"] if command == "score" else ["settings.yaml"]
    return Reproduction(shlex.join([*start, *words]), _nested_yaml(others) if others else None)


def _flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of decoding as ``decoding.<name>``."""
    flat = {key: value for key, value in config.items() if key != "decoding"}
    return flat | {f"decoding.{key}": value for key, value in config.get("decoding", {}).items()}


def _nested_yaml(flat: Mapping[str, Any]) -> str:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        parent, _, child = key.rpartition(".")
        (nested.setdefault(parent, {}) if parent else nested)[child] = value
    return yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)
