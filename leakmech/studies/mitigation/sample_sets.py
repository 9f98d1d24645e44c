"""Samples of a comparison: the relevant affect that is fitted on and the one that is judged on, which share nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from leakmech.core.store import slug
from leakmech.datasets.samples import PromptSet, load_dataset, load_pooled, refuse_frozen
from leakmech.studies.diagnosis.settings import QUICK_SPLITS
from leakmech.studies.mitigation.settings import MitigateConfig

_FITTED = ("fit", "tune")
"""Splits that are fitted on and chosen on."""


def relevant_to_fit(config: MitigateConfig) -> PromptSet:
    """Relevant affect to fit and to choose on; of either split as much as of AEXL where the run is quick."""
    found = load_pooled(config.relevant_fit)
    if not config.quick:
        return found
    few = [sample for split in _FITTED for sample in found.split(split).spread(QUICK_SPLITS[split])]
    return replace(found, samples=tuple(few))


def refuse_unfit_samples(config: MitigateConfig) -> None:
    """Refuse, before a diagnosis is made, samples that are to be fitted on and that something is judged on."""
    relevant = relevant_to_fit(config)
    for split in _FITTED:
        relevant.split(split)
    refuse_shared(config, [relevant, *(load_dataset(name) for name in (config.fit, config.tune) if name)])


def refuse_shared(config: MitigateConfig, fitted: Sequence[PromptSet]) -> None:
    """Refuse samples to fit on that share an injection with what is judged on, or with the frozen sets."""
    judged = [load_dataset(config.dataset).take(config.limit), *map(load_dataset, config.relevant)]
    for samples in fitted:
        for others in judged:
            samples.refuse_shared_injections(others)
        refuse_frozen(samples)


def relevant_to_judge(config: MitigateConfig, folder: Path) -> tuple[str, ...]:
    """Sets of relevant affect; the first samples of each where the run is quick."""
    if not config.quick:
        return config.relevant
    few = {name: folder / f"{slug(Path(name).stem)}.jsonl" for name in config.relevant}
    for name, file in few.items():
        load_dataset(name).take(config.relevant_limit).save(file)
    return tuple(map(str, few.values()))


def set_folder(dataset: str, sets: Sequence[str]) -> str:
    """Name of the folder of a set's benchmark; of files with one name (``leak/test``, ``kept/test``) all differ."""
    name, others = slug(Path(dataset).stem), list(dict.fromkeys(sets))
    before = [one for one in others[: others.index(dataset)] if slug(Path(one).stem) == name]
    return f"{name}-{len(before) + 1}" if before else name
