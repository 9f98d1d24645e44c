"""``study persona-leakage``: from a behaviour and a persona to how far it leaks to others, and why.

    damage       everyday questions and the base model's own answers: what adapters are held against
    base-<name>  how much every persona shows a behaviour by itself
    similarity   who is like whom inside the base model
    cells        one adapter for each behaviour, source and seed, and what everybody shows under it
    controls     adapters of normal answers only
    analysis     change of source and bystanders, correlation with similarity, prediction of held-out cells
    containment  full contrast, preventative steering, a direction projected out, a gate on the persona
    bridge       does a persona that was taught gloom leak more irrelevant affect?

After "Behavioral leakage generalizes across 4 behavior types" (superkaiba/explore-persona-space, task 99), with the
confounds found later designed out or logged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from leakmech.core.errors import ConfigError
from leakmech.core.progress import Shown, shown_progress
from leakmech.core.store import content_hash, slug
from leakmech.models.configured import load_configured
from leakmech.models.device import dtype_name
from leakmech.models.load import LoadedModel, given_name
from leakmech.prompts.dates import dated
from leakmech.prompts.persona import PersonaRenderer
from leakmech.reports.tables import Table
from leakmech.runs.directory import SCRIPT, began
from leakmech.runs.run import Fragment, Run, run_path
from leakmech.scoring.semantic import load_encoder
from leakmech.studies.persona_leakage.bridge import bridge
from leakmech.studies.persona_leakage.containment import containment
from leakmech.studies.persona_leakage.cost import cost_table, estimate_line
from leakmech.studies.persona_leakage.likeness import similarity
from leakmech.studies.persona_leakage.relating import analysis, cells, controls
from leakmech.studies.persona_leakage.report import write_report
from leakmech.studies.persona_leakage.result import PersonaLeakage
from leakmech.studies.persona_leakage.settings import PersonaLeakageConfig
from leakmech.studies.persona_leakage.teaching import base, base_damage
from leakmech.studies.persona_leakage.workbench import MODEL_DEFAULT, Workbench, behaviours_of, cast


def persona_leakage(
    model: Any = None,
    *,
    tokenizer: Any = None,
    out: str | Path | None = None,
    progress: Shown = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> PersonaLeakage:
    """Run the study of persona leakage, or continue the one in `out`.

    Parameters
    ----------
    model, tokenizer, progress
        As for :func:`leakmech.bench`.
    out
        Run directory; default ``runs/persona-leakage-<model>-seed<seed>``.
    say
        Takes a line with the estimated time before the work starts; none is made by default.
    **settings
        Fields of :class:`leakmech.studies.persona_leakage.settings.PersonaLeakageConfig`.

    Returns
    -------
    PersonaLeakage
        ``.summary`` (dict), ``.table(name)`` (data frame), ``.to_markdown()``, ``.report()``.

    Raises
    ------
    UsageError
        A behaviour, persona, file, key or value is wrong, question sets overlap, or too few bystanders are left.
    InterruptedRunError
        Ctrl-C or SIGTERM; finished cells and answers are in `out` and the same call continues it.
    """
    progress = shown_progress(progress)
    by_name = model is None or isinstance(model, str | Path)
    if model is not None:
        settings["model"] = str(model) if by_name else given_name(model)
    config = PersonaLeakageConfig.parse(settings, where="study persona-leakage")
    path = run_path(out, f"persona-leakage-{slug(config.model)}-seed{config.seed}")
    Run.check(path, config)
    with dated(began(path)):
        started = time.perf_counter()
        behaviours, tasks = behaviours_of(config)
        encoder = load_encoder(config.encoder)
        named = (*config.source, *(config.negatives or ()))
        cast(config, encoder, _ANY if MODEL_DEFAULT in named else None)  # what is wrong is said before loading
        loaded = load_configured(config, None if by_name else model, tokenizer)
        renderer = _renderer(loaded)
        found = cast(config, encoder, renderer.default)
        fingerprint = loaded.fingerprint() | {
            "personas": found.everybody.content_hash,
            "behaviours": content_hash(*(own.content_hash for own in tasks.values())),
            "encoder": encoder.hash,
        }
        facts: dict[str, Any] = {"model": loaded.info(), **({} if by_name else {SCRIPT: True})}
        with Run.open(path, config, fingerprint, **facts) as run:
            if run.finished:
                return PersonaLeakage.load(path)
            bench = Workbench(config, run, loaded, found, behaviours, tasks, encoder, progress)
            bench.refuse_unfit_layers()
            if say is not None:
                for line in (estimate_line(bench), *renderer.notes):
                    say(line)
            return _staged(bench, started)


_ANY = "any text"
"""Stands for a template's default until the tokenizer is loaded."""


def study_cost(**settings: Any) -> Table:
    """Cells, time, memory and disk of the study; nothing is written."""
    return cost_table(PersonaLeakageConfig.parse(settings, where="study persona-leakage"))


def _renderer(loaded: LoadedModel) -> PersonaRenderer:
    if not loaded.has_chat_template:
        raise ConfigError(f"{loaded.name}: has no chat template, so there is no role for a persona")
    return PersonaRenderer(loaded.tokenizer)


def _staged(bench: Workbench, started: float) -> PersonaLeakage:
    run, summary = bench.run, _about(bench)
    timing: dict[str, float] = {}

    def clock(name: str, work: Callable[[], Any]) -> Any:
        before = time.perf_counter()
        value = work()
        timing[f"{name}_s"] = round(time.perf_counter() - before, 1)
        return value

    with run.interruptible(lambda: "finished cells, and all answers, are saved"):
        clock("damage", lambda: run.part("damage", partial(base_damage, bench)))
        for name in bench.behaviours:
            clock(f"base-{name}", lambda name=name: run.part(f"base-{name}", partial(base, bench, name)))
        summary["similarity"] = clock("similarity", lambda: run.part("similarity", partial(similarity, bench)))
        made, control = clock("cells", lambda: cells(bench)), clock("controls", lambda: controls(bench))
        summary |= clock("analysis", lambda: run.part("analysis", lambda: analysis(bench, made, control)))
        summary["containment"] = clock("containment", lambda: run.part("containment", partial(containment, bench)))
        summary["bridge"] = clock("bridge", lambda: run.part("bridge", partial(bridge, bench)))
        write_report(run.path, summary)
    timing["total_s"] = round(time.perf_counter() - started, 1)
    return run.finish(summary, timing, result=PersonaLeakage)


def _about(bench: Workbench) -> Fragment:
    """What was studied on what."""
    c = bench.config
    return {
        "study": "persona-leakage",
        "model": c.model,
        "behaviours": list(bench.behaviours),
        "sources": [own.id for own in bench.cast.sources],
        "seeds": bench.seeds,
        "contrast": c.contrast,
        "negatives": {source: [own.id for own in chosen] for source, chosen in bench.cast.negatives.items()},
        "n_personas": len(bench.cast.everybody),
        "n_questions": {name: len(bench.eval_tasks(name)) for name in bench.behaviours},
        "learning_rate": bench.learning_rate,
        "model_default": bench.renderer.default,
        "persona_place": bench.renderer.place,
        "notes": list(bench.renderer.notes),
        "quick": c.quick,
        "seed": c.seed,
        "dtype": dtype_name(bench.loaded.dtype),
        "device": str(bench.loaded.device),
        "threads": torch.get_num_threads(),
    }
