"""``diagnose``: all stages in a run directory that any interruption leaves usable."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.errors import InterruptedRunError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.store import read_json, slug, write_json
from leakmech.datasets.samples import PromptSet, load_dataset, refuse_frozen
from leakmech.mechanism.sentiment import split_samples
from leakmech.models.load import load_adapter, load_configured
from leakmech.runs.directory import FORMAT_VERSION, RunDirectory, open_run, refuse_other_run
from leakmech.studies.diagnosis.report import write_report
from leakmech.studies.diagnosis.settings import DiagnoseConfig
from leakmech.studies.diagnosis.stages import STAGES
from leakmech.studies.diagnosis.workbench import READ_BY, Workbench


@dataclass(frozen=True)
class Diagnosis:
    """A finished diagnosis.

    Attributes
    ----------
    path
        Its directory: ``summary.json``, ``tables/``, ``directions/``, ``figures/``, ``report.html``.
    summary
        The main numbers.
    """

    path: Path
    summary: dict[str, Any]

    def table(self, name: str) -> pd.DataFrame:
        """``tables/<name>.csv``: heads, neurons, directions, faithfulness and others."""
        return pd.read_csv(self.path / "tables" / f"{name}.csv")


def diagnose(
    model: Any = None,
    *,
    tokenizer: Any = None,
    out: str | Path | None = None,
    progress: Progress = no_progress,
    **settings: Any,
) -> Diagnosis:
    """Find the layers, heads and neurons that carry leaked affect, or continue the diagnosis in `out`.

    Parameters
    ----------
    model, tokenizer, progress
        As for :func:`leakmech.bench`.
    out
        Run directory; default ``runs/diagnose-<model>-<dataset>-seed<seed>``.
    **settings
        Fields of :class:`leakmech.studies.diagnosis.settings.DiagnoseConfig`; ``fit`` is needed: samples on which
        directions are fitted.

    Raises
    ------
    UsageError
        A name, file, key or value is wrong, splits share samples, or the architecture is not known.
    InterruptedRunError
        Ctrl-C; finished stages are in `out` and the same call continues it.
    """
    by_name = model is None or isinstance(model, str | Path)
    if model is not None:
        settings["model"] = str(model) if by_name else type(model).__name__
    config = DiagnoseConfig.parse(settings, where="diagnose")
    run = RunDirectory(Path(out) if out else Path("runs") / _default_name(config))
    refuse_other_run(run, config)
    started = time.perf_counter()
    splits = load_splits(config)
    loaded = load_configured(config, None if by_name else model, tokenizer)
    loaded = load_adapter(loaded, config.adapter) if config.adapter else loaded
    bench = Workbench(config, run.path, loaded, splits, progress)
    _open(run, bench)
    if run.is_complete():
        return Diagnosis(run.path, read_json(run.summary_file))
    summary: dict[str, Any] = {
        "kind": "diagnose",
        "format_version": FORMAT_VERSION,
        "model": config.model,
        "dataset": config.dataset,
        "fit": config.fit,
        "target": config.target,
        "target_layer": bench.target_layer,
        "n_samples": {name: len(samples) for name, samples in splits.items()},
        "seed": config.seed,
        "backend": READ_BY[config.backend],
        "prompt_form": bench.renderer.resolved_form,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "device": str(loaded.device),
    }
    timing: dict[str, float] = {}
    try:
        for name, work in STAGES.items():
            before = time.perf_counter()
            summary |= bench.stage(name, work)
            timing[f"{name}_s"] = round(time.perf_counter() - before, 1)
        write_report(run.path, summary)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"interrupted: finished stages are saved; continue with: leakmech diagnose --out {run.path}"
        ) from None
    summary["timing"] = timing | {"total_s": round(time.perf_counter() - started, 1)}
    write_json(run.summary_file, summary)
    return Diagnosis(run.path, summary)


def load_splits(config: DiagnoseConfig) -> dict[str, PromptSet]:
    """Samples to fit on, to choose on and to report on.

    Raises
    ------
    DatasetError
        They share samples or injections, or hold those of a frozen data set.
    """
    splits = split_samples(
        load_dataset(config.fit), tune=load_dataset(config.tune) if config.tune else None, seed=config.seed
    )
    splits["test"] = load_dataset(config.dataset).take(config.limit)
    for name in ("fit", "tune"):
        splits[name].refuse_shared_injections(splits["test"])
        refuse_frozen(splits[name])
    return splits


def _open(run: RunDirectory, bench: Workbench) -> None:
    """Create the run directory, or check that it holds this very run."""
    fingerprint = {
        "weights": bench.loaded.weights_hash,
        "tokenizer": bench.loaded.tokenizer_hash,
        "template": bench.loaded.template_hash,
        "dtype": str(bench.loaded.dtype).removeprefix("torch."),
        **{name: samples.content_hash for name, samples in bench.splits.items()},
    }
    open_run(
        run,
        bench.config,
        fingerprint,
        model=bench.loaded.info(),
        prompt_form=bench.renderer.resolved_form,
        samples={name: [sample.id for sample in samples] for name, samples in bench.splits.items()},
    )


def _default_name(config: DiagnoseConfig) -> str:
    return f"diagnose-{slug(config.model)}-{slug(config.dataset)}-seed{config.seed}"
