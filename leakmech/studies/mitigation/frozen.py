"""Frozen sets are measured on once: what was chosen is on record before that, and nothing else is measured there after.

``stages/frozen.json`` of a comparison whose test sets hold frozen samples or facts says which, when, and what was
measured on them: each choice by name and by a hash of all that it does. A run with another choice is refused in the
same directory, also where that takes in more, as other comparisons may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leakmech.core.errors import ConfigError, DatasetError, RunDirectoryError
from leakmech.core.store import content_hash
from leakmech.datasets.facts import FROZEN_FACTS, load_facts
from leakmech.datasets.samples import FROZEN_DATASETS, load_dataset
from leakmech.runs.run import Run
from leakmech.runs.sealed import read_sealed
from leakmech.studies.mitigation.mitigation import Mitigation
from leakmech.studies.mitigation.settings import MitigateConfig

_CHOICE = ("families", "adapters", "interventions", "claimed", "seeds")
_STAGE = "frozen"


def frozen_sets(config: MitigateConfig) -> list[str]:
    """The frozen sets, samples of which are measured on, under whatever name."""
    judged = [load_dataset(name) for name in (config.dataset, *config.relevant)]
    found = [name for name in FROZEN_DATASETS if any(_shares(samples, name) for samples in judged)]
    facts = {fact.fact for fact in load_facts(config.facts)}
    return [*found, *([FROZEN_FACTS] if facts & {fact.fact for fact in load_facts(FROZEN_FACTS)} else [])]


def refuse_another_choice(path: Path, config: MitigateConfig) -> None:
    """Refuse settings that would measure something else on frozen sets than what the run in `path` did."""
    if config.quick and (sets := frozen_sets(config)):
        raise ConfigError(f"quick: {', '.join(sets)} are for one last measurement, and quick is none")
    file = path / "stages" / f"{_STAGE}.json"
    if file.exists():
        _refuse_other(path, read_sealed(file), "settings", _settings(config))


def record_frozen(
    run: Run, config: MitigateConfig, chosen: Mapping[str, Mitigation], given: Sequence[Mitigation]
) -> dict[str, Any] | None:
    """Note, before frozen sets are measured on, what will be; None where there are none among the test sets."""
    sets = frozen_sets(config)
    if not sets:
        return None
    judged = {name: [one.name, content_hash(one.identity)] for name, one in chosen.items()}
    judged |= {one.name: [one.name, content_hash(one.identity)] for one in given}
    now = {"sets": sets, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    record = run.noted(_STAGE, lambda: {**now, "settings": _settings(config), "judged": judged})
    _refuse_other(run.path, record, "judged", judged)
    return record


def _refuse_other(path: Path, record: Mapping[str, Any], key: str, wanted: Mapping[str, Any]) -> None:
    before = record[key]
    other = sorted(name for name in before.keys() | wanted.keys() if before.get(name) != wanted.get(name))
    if other:
        raise RunDirectoryError(
            f"{path}: {', '.join(record['sets'])} were measured here on {record['date'][:10]} with another choice "
            f"({', '.join(other)}); frozen sets are measured on once, for one choice"
        )


def _settings(config: MitigateConfig) -> dict[str, Any]:
    identity = config.model_dump(mode="json")
    return {name: identity[name] for name in _CHOICE}


def _shares(samples: Any, frozen: str) -> bool:
    try:
        samples.refuse_shared_injections(load_dataset(frozen))
    except DatasetError:
        return True
    return False
