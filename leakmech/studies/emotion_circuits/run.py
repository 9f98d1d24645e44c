"""``study emotion-circuits``: from a command to directions, units, circuits, and to what they are good for.

    form         tune          in which form does the model do what is commanded?
    elicitation  fit           what it replies to commands, as judges read it that are not told
    directions   fit, tune     directions of the commands, and whether they are more than words
    components   fit, tune     heads and neurons along them, and what sets of them do to the projection
    influence    tune          how much each sublayer moves the end of the model
    circuits     fit, tune     units of each emotion by the influence of their layers
    strengths    tune          accuracy against fluency at several strengths; one is chosen for each method
    comparison   test          commands, steering, circuits, and circuits that should do worse
    outside      questions     the same where nothing happened that could move anybody
    bridge       leakage sets  do these circuits carry affect that leaks? (:mod:`.bridge`)

After "Do LLMs 'Feel'? Emotion Circuits Discovery and Control" (arXiv 2510.11328); every stage is kept, and a run that
was stopped goes on with the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from leakmech.core.errors import ConfigError, DatasetError, ModelError
from leakmech.core.progress import Shown, shown_progress
from leakmech.core.store import content_hash, slug
from leakmech.datasets.sev import Scenarios, load_scenarios
from leakmech.models.configured import load_configured
from leakmech.models.cost import Shape, Work
from leakmech.models.device import dtype_name
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel, given_name
from leakmech.prompts.dates import dated
from leakmech.reports.tables import Table
from leakmech.runs.directory import SCRIPT, began
from leakmech.runs.run import Fragment, Run, run_path
from leakmech.scoring.emotion_judges import load_judge
from leakmech.scoring.semantic import load_encoder
from leakmech.studies.diagnosis.result import Diagnosis
from leakmech.studies.emotion_circuits.bridge import bridge, diagnosis_key, refuse_other_model, refuse_unfit_diagnosis
from leakmech.studies.emotion_circuits.comparing import comparison, elicitation, form, outside, strengths
from leakmech.studies.emotion_circuits.components import refuse_post_norm
from leakmech.studies.emotion_circuits.cost import estimate, gpu_table, work
from leakmech.studies.emotion_circuits.finding import circuits, components, refuse_unfit_sizes, sublayer_influence
from leakmech.studies.emotion_circuits.fitting import directions
from leakmech.studies.emotion_circuits.report import write_report
from leakmech.studies.emotion_circuits.result import EmotionCircuits
from leakmech.studies.emotion_circuits.settings import EmotionCircuitsConfig
from leakmech.studies.emotion_circuits.workbench import Workbench

STAGES: Mapping[str, Callable[[Workbench], Fragment]] = {
    "form": form,
    "elicitation": elicitation,
    "directions": directions,
    "components": components,
    "influence": sublayer_influence,
    "circuits": circuits,
    "strengths": strengths,
    "comparison": comparison,
    "outside": outside,
}
_LEAST_THEMES = 2


def emotion_circuits(
    model: Any = None,
    *,
    diagnosis: str | Path | None = None,
    tokenizer: Any = None,
    out: str | Path | None = None,
    progress: Shown = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> EmotionCircuits:
    """Run the study of emotion circuits, or continue the one in `out`.

    Parameters
    ----------
    model, tokenizer, progress
        As for :func:`leakmech.bench`.
    diagnosis
        Directory of a finished diagnosis of the same model, for the bridge to leakage; without it there is none.
    out
        Run directory; default ``runs/emotion-circuits-<model>-seed<seed>``.
    say
        Takes a line with the estimated time before the work starts; none is made by default.
    **settings
        Fields of :class:`leakmech.studies.emotion_circuits.settings.EmotionCircuitsConfig`.

    Returns
    -------
    EmotionCircuits
        ``.summary`` (dict), ``.table(name)`` (data frame), ``.to_markdown()``, ``.report()``.

    Raises
    ------
    UsageError
        A name, file, key or value is wrong, scenarios do not suffice, or the architecture is not known.
    InterruptedRunError
        Ctrl-C or SIGTERM; finished stages are in `out` and the same call continues it.
    """
    progress = shown_progress(progress)
    by_name = model is None or isinstance(model, str | Path)
    if model is not None:
        settings["model"] = str(model) if by_name else given_name(model)
    if diagnosis is not None:
        settings["diagnosis"] = str(diagnosis)
    config = EmotionCircuitsConfig.parse(settings, where="study emotion-circuits")
    path = run_path(out, f"emotion-circuits-{slug(config.model)}-seed{config.seed}")
    Run.check(path, config)
    with dated(began(path)):
        started = time.perf_counter()
        splits = load_splits(config)
        refuse_unfit_diagnosis(config)
        judges = [load_judge(name) for name in config.judges]
        encoder = load_encoder(config.encoder)
        loaded = load_configured(config, None if by_name else model, tokenizer)
        _refuse_unfit_model(config, loaded)
        refuse_other_model(config, loaded)
        fingerprint = loaded.fingerprint() | {name: own.content_hash for name, own in splits.items()}
        fingerprint |= {"judges": content_hash(*(str(judge.details) for judge in judges)), "encoder": encoder.hash}
        facts: dict[str, Any] = {
            "model": loaded.info(),
            "judges": [dict(judge.details) for judge in judges],
            "encoder": encoder.details,
            **({} if by_name else {SCRIPT: True}),
        }
        with Run.open(path, config, fingerprint, **facts) as run:
            if run.finished and not _lacks_bridge(config, path):
                return EmotionCircuits.load(path)
            bench = Workbench(config, run, loaded, splits, judges, encoder, progress)
            if say is not None:
                say(estimate(config, loaded, bench.layout, splits))
            return _staged(bench, started)


def study_cost(**settings: Any) -> Table:
    """What the study would cost on one GPU; nothing is loaded or written."""
    config = EmotionCircuitsConfig.parse(settings, where="study emotion-circuits")
    return gpu_table(config, load_splits(config))


def work_of(config: EmotionCircuitsConfig, shape: Shape) -> Work:
    """What the study has a model do; nothing is loaded but the scenarios."""
    return work(config, shape, load_splits(config))


def load_splits(config: EmotionCircuitsConfig) -> dict[str, Scenarios]:
    """Scenarios to fit on, to choose on and to report on, which have no event in common."""
    data, test = load_scenarios(config.dataset), load_scenarios(config.test)
    fit, tune = data.split("fit"), data.split("tune")
    for name, own in (("fit", fit), ("tune", tune)):
        if not len(own):
            raise DatasetError(f"scenarios {config.dataset!r}: none has the split {name!r}; mark some of each theme")
    if len(fit.themes) < _LEAST_THEMES:
        raise DatasetError(
            f"scenarios {config.dataset!r}: the split 'fit' has one theme; to test on a theme that was left out takes "
            f"{_LEAST_THEMES} or more"
        )
    known = {own.id for own in data} | {text for own in data for text in own.events}
    if shared := next((own.id for own in test if own.id in known or set(own.events) & known), None):
        raise DatasetError(f"scenarios {config.test!r}: {shared!r} is among those of {config.dataset!r} as well")
    return {
        "fit": fit.spread(config.fit_scenarios) if config.fit_scenarios else fit,
        "tune": tune.spread(config.tune_scenarios),
        "test": test.spread(config.test_scenarios) if config.test_scenarios else test,
    }


def _refuse_unfit_model(config: EmotionCircuitsConfig, loaded: LoadedModel) -> None:
    """Refuse, before anything is generated, what no stage could work with."""
    layout = layout_of(loaded.model)
    if not layout.d_mlp:
        raise ModelError(f"emotion circuits: {loaded.architecture} is a mixture of experts, whose neurons are not read")
    refuse_post_norm(layout)
    refuse_unfit_sizes(config, layout)
    if config.form == "chat" and not loaded.has_chat_template:
        raise ConfigError(f"{loaded.name}: has no chat template; use --form plain")


def _staged(bench: Workbench, started: float) -> EmotionCircuits:
    summary = _about(bench)
    timing: dict[str, float] = {}
    with bench.run.interruptible(lambda: f"{len(timing)} of {len(STAGES)} stages are saved, and all replies"):
        for name, work in STAGES.items():
            before = time.perf_counter()
            summary |= bench.run.part(name, partial(work, bench))
            timing[f"{name}_s"] = round(time.perf_counter() - before, 1)
        summary |= bridge(bench)
        write_report(bench.run.path, summary)
    timing["total_s"] = round(time.perf_counter() - started, 1)
    return bench.run.finish(summary, timing, result=EmotionCircuits)


def _lacks_bridge(config: EmotionCircuitsConfig, path: Path) -> bool:
    """Was a finished run made without the diagnosis that is named now?"""
    if config.diagnosis is None:
        return False
    made = path / "stages" / f"bridge-{diagnosis_key(Diagnosis.load(config.diagnosis))}.json"
    return not made.exists()


def _about(bench: Workbench) -> Fragment:
    """What was studied on what."""
    c = bench.config
    return {
        "study": "emotion-circuits",
        "model": c.model,
        "dataset": c.dataset,
        "test": c.test,
        "judges": list(c.judges),
        "n_scenarios": {name: len(own) for name, own in bench.splits.items()},
        "quick": c.quick,
        "seed": c.seed,
        "dtype": dtype_name(bench.loaded.dtype),
        "device": str(bench.loaded.device),
        "threads": torch.get_num_threads(),
    }
