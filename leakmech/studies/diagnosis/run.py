"""``diagnose``: all stages in a run directory that any interruption leaves usable."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from leakmech.core.errors import ModelError
from leakmech.core.progress import Progress, Shown, no_progress, shown_progress
from leakmech.core.store import slug
from leakmech.datasets.samples import PromptSet, load_dataset, refuse_frozen
from leakmech.mechanism.sentiment import split_samples
from leakmech.models.configured import load_configured
from leakmech.models.cost import Shape, Work
from leakmech.models.device import dtype_name
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel, given_name, load_adapter
from leakmech.prompts.dates import dated
from leakmech.prompts.render import Prompting, Renderer
from leakmech.runs.directory import SCRIPT, RunRecord, began
from leakmech.runs.run import Fragment, Run, run_path
from leakmech.studies.diagnosis.cost import estimate, token_passes
from leakmech.studies.diagnosis.report import write_report
from leakmech.studies.diagnosis.result import Diagnosis
from leakmech.studies.diagnosis.settings import QUICK_SPLITS, DiagnoseConfig
from leakmech.studies.diagnosis.stages import STAGES
from leakmech.studies.diagnosis.workbench import READ_BY, Workbench


def diagnose(
    model: Any = None,
    *,
    tokenizer: Any = None,
    out: str | Path | None = None,
    progress: Shown = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> Diagnosis:
    """Find the layers, heads and neurons that carry leaked affect, or continue the diagnosis in `out`.

    Parameters
    ----------
    model, tokenizer, progress
        As for :func:`leakmech.bench`.
    out
        Run directory; default ``runs/diagnose-<model>-<dataset>-seed<seed>``.
    say
        Takes a line with the estimated time before the work starts; none is made by default.
    **settings
        Fields of :class:`leakmech.studies.diagnosis.settings.DiagnoseConfig`; ``fit`` is needed: samples on which
        directions are fitted.

    Returns
    -------
    Diagnosis
        ``.summary`` (dict), ``.table(name)`` (data frame), ``.to_markdown()``; directions and figures lie in ``.path``.

    Raises
    ------
    UsageError
        A name, file, key or value is wrong, splits share samples, or the architecture is not known.
    InterruptedRunError
        Ctrl-C or SIGTERM; finished stages are in `out` and the same call continues it.
    """
    progress = shown_progress(progress)
    by_name = model is None or isinstance(model, str | Path)
    if model is not None:
        settings["model"] = str(model) if by_name else given_name(model)
    config = DiagnoseConfig.parse(settings, where="diagnose")
    path = run_path(out, f"diagnose-{slug(config.model)}-{slug(config.dataset)}-seed{config.seed}")
    if "target" not in settings:  # a run goes on with its own target, whatever the default has become
        config = config.model_copy(update={"target": _stored_target(path, config.target)})
    loaded = None if by_name else load_configured(config, model, tokenizer)
    return run_diagnosis(config, path, loaded=loaded, script=not by_name, progress=progress, say=say)


def run_diagnosis(
    config: DiagnoseConfig,
    path: Path,
    *,
    loaded: LoadedModel | None = None,
    script: bool = False,
    progress: Progress = no_progress,
    say: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Diagnose with settings that are checked, in the run directory `path`.

    `loaded` is the model if it is in memory; `script` is True if only a script has it.
    """
    Run.check(path, config)
    with dated(began(path)):
        started = time.perf_counter()
        splits = load_splits(config)
        loaded = load_configured(config) if loaded is None else loaded
        loaded = load_adapter(loaded, config.adapter) if config.adapter else loaded
        if not layout_of(loaded.model).d_mlp:
            raise ModelError(
                f"diagnose: {loaded.architecture} is a mixture of experts, whose neurons are not read; rank its heads "
                "with leakmech attribute"
            )
        fingerprint = loaded.fingerprint() | {name: samples.content_hash for name, samples in splits.items()}
        facts: dict[str, Any] = {
            "model": loaded.info(),
            "prompt_form": Renderer(loaded.tokenizer, Prompting.of(config)).resolved_form,
            "samples": {name: [sample.id for sample in samples] for name, samples in splits.items()},
            **({SCRIPT: True} if script else {}),
        }
        with Run.open(path, config, fingerprint, **facts) as run:
            if run.finished:
                return Diagnosis.load(path)
            bench = Workbench(config, run, loaded, splits, progress)
            if say is not None:
                say(estimate(bench))
            summary = _about(bench)
            timing: dict[str, float] = {}
            with run.interruptible(lambda: f"{len(timing)} of {len(STAGES)} stages are saved"):
                for name, work in STAGES.items():
                    before = time.perf_counter()
                    summary |= run.part(name, partial(work, bench))
                    timing[f"{name}_s"] = round(time.perf_counter() - before, 1)
                write_report(path, summary)
            timing["total_s"] = round(time.perf_counter() - started, 1)
            return run.finish(summary, timing, result=Diagnosis)


def _stored_target(path: Path, default: str) -> str:
    """The target of the diagnosis in `path`, if there is one."""
    record = RunRecord.find(path)
    return default if record is None else str(record.config.get("target", default))


def _about(bench: Workbench) -> Fragment:
    """What was diagnosed on what."""
    config = bench.config
    return {
        "model": config.model,
        "dataset": config.dataset,
        "fit": config.fit,
        "target": config.target,
        "target_layer": bench.target_layer,
        "n_samples": {name: len(samples) for name, samples in bench.splits.items()},
        "seed": config.seed,
        "backend": READ_BY[config.backend],
        "prompt_form": bench.renderer.resolved_form,
        "dtype": dtype_name(bench.loaded.dtype),
        "device": str(bench.loaded.device),
        **({"quick": True} if config.quick else {}),
    }


def load_splits(config: DiagnoseConfig) -> dict[str, PromptSet]:
    """Samples to fit on, to choose on and to report on, which share nothing with each other or the frozen sets."""
    splits = split_samples(
        load_dataset(config.fit), tune=load_dataset(config.tune) if config.tune else None, seed=config.seed
    )
    splits["test"] = load_dataset(config.dataset).take(config.limit)
    if config.quick:
        splits = {name: samples.take(QUICK_SPLITS[name]) for name, samples in splits.items()}
    for name in ("fit", "tune"):
        splits[name].refuse_shared_injections(splits["test"])
        refuse_frozen(splits[name])
    return splits


_DISK = 20e6
"""Bytes of a finished diagnosis of a small model: tables, directions, figures, its page."""


def work_of(config: DiagnoseConfig, shape: Shape) -> Work:
    """What a diagnosis has a model do; nothing is loaded but the samples."""
    n = {name: len(own) for name, own in load_splits(config).items()}
    return Work(sum(token_passes(config, shape, n).values()), rows=8 * sum(n.values()), disk=_DISK)
