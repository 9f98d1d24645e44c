"""The diagnosis that a comparison of mitigations makes itself, where none is named.

    data/aexl_fit.jsonl, data/aexl_tune.jsonl    samples to fit and to choose on, unless others are named (AEXL)
    diagnosis/                                   an ordinary run of ``leakmech diagnose``, in float32

Everything lies in the run directory of the comparison, is kept, and is continued with it. The diagnosis reports on the
leakage set, or on HEXL where that is a frozen set, which is measured on once and not by a diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from leakmech.core.errors import DatasetError, RunDirectoryError
from leakmech.core.progress import Progress
from leakmech.datasets.samples import load_dataset, refuse_frozen
from leakmech.models.load import LoadedModel
from leakmech.runs.run import Run
from leakmech.scoring.expression import estimator_names
from leakmech.studies.aexl.run import build_aexl
from leakmech.studies.diagnosis.run import run_diagnosis
from leakmech.studies.diagnosis.settings import QUICK, QUICK_SPLITS, DiagnoseConfig
from leakmech.studies.mitigation.sample_sets import refuse_shared
from leakmech.studies.mitigation.settings import MitigateConfig

AEXL_SAMPLES: dict[str, Any] = {"samples": 50, "fit": 50, "tune": 50}
"""Sizes of the splits that are built; ``samples`` are not used."""
_QUICK_AEXL: dict[str, Any] = {
    "samples": QUICK_SPLITS["test"],
    "fit": QUICK_SPLITS["fit"],
    "tune": QUICK_SPLITS["tune"],
}
_NOT_SHARED = ("dtype", "fit", "tune", "estimator", "dataset", "quick")


def own_diagnosis(
    config: MitigateConfig,
    run: Run,
    loaded: LoadedModel,
    *,
    by_name: bool,
    progress: Progress,
    say: Callable[[str], None] | None,
) -> Path:
    """The directory of the finished diagnosis; what of it is there is not made again."""
    fit, tune = _samples(config, run.path / "data", progress)
    path = run.path / "diagnosis"
    # In bfloat16 the effects of single heads drown in rounding; a model that has a name is loaded once more.
    held = None if by_name and loaded.dtype == torch.bfloat16 else loaded
    chosen = settings_of(config, fit, tune)
    return run_diagnosis(chosen, path, loaded=held, script=not by_name, progress=progress, say=say).path


def settings_of(config: MitigateConfig, fit: str, tune: str | None) -> DiagnoseConfig:
    """Settings of the diagnosis: those that both share, and defaults."""
    shared = {
        name: getattr(config, name)
        for name in DiagnoseConfig.model_fields
        if name in MitigateConfig.model_fields and name not in _NOT_SHARED
    }
    shared |= {"estimator": estimator_names(config.estimator)[0], "dataset": _reported_on(config)}
    shared |= QUICK if config.quick else {}
    return DiagnoseConfig.parse({**shared, "fit": fit, "tune": tune}, where="diagnosis")


def aexl_sizes(config: MitigateConfig) -> dict[str, Any]:
    """How many samples of each split are built where none are named."""
    return dict(_QUICK_AEXL if config.quick else AEXL_SAMPLES)


def keep_source(run: Run, source_hash: str) -> None:
    """Refuse to go on where what everything was fitted on has changed since."""
    before = run.noted("fitted_on", lambda: {"hash": source_hash})["hash"]
    if before != source_hash:
        raise RunDirectoryError(f"{run.path}: its diagnosis has changed since it was fitted on; choose another --out")


def _samples(config: MitigateConfig, folder: Path, progress: Progress) -> tuple[str, str | None]:
    """Files to fit and to choose on; AEXL is built if it is missing."""
    if config.fit:
        return config.fit, config.tune
    file = folder / "aexl.jsonl"
    if not file.with_suffix(".json").exists():  # the card is written last
        build_aexl(file, seed=config.seed, progress=progress, **aexl_sizes(config))
    fit, tune = (str(file.with_stem(f"aexl_{split}")) for split in ("fit", "tune"))
    refuse_shared(config, [load_dataset(fit), load_dataset(tune)])
    return fit, tune


def _reported_on(config: MitigateConfig) -> str:
    try:
        refuse_frozen(load_dataset(config.dataset))
    except DatasetError:
        return "hexl"
    return config.dataset
