"""Which mitigation lowers leakage most for the least harm: all measured on the same prompts with the same noise.

One row per mitigation, with 95 % intervals from resampling samples (:mod:`leakmech.side_effects.selectivity`), a
permutation test of its auc_el against the base model's, adjusted (Holm) over the mitigations of the table that are told
nothing beside the text of the prompt (:mod:`leakmech.prompts.told`), and what it damages
(:mod:`leakmech.side_effects.measure`). What is told more, baselines and oracles stand in the same table, marked, and
are not in that family of tests.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from leakmech.core.errors import ConfigError
from leakmech.core.progress import Shown, shown_progress
from leakmech.core.store import slug
from leakmech.datasets.facts import load_facts
from leakmech.datasets.samples import load_dataset
from leakmech.generation.engines import DEFAULT_ENGINE
from leakmech.interventions.base import Intervention
from leakmech.models.configured import load_configured
from leakmech.models.load import LoadedModel
from leakmech.prompts.arrangement import Arrangement
from leakmech.prompts.dates import dated
from leakmech.runs.directory import RunDirectory, RunRecord, began
from leakmech.runs.run import Run, run_path
from leakmech.side_effects.equivalence import Margins
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.mitigation.arranged import with_arrangements
from leakmech.studies.mitigation.by_estimator import p_values_against_base, rows_by_estimator
from leakmech.studies.mitigation.cells import BASE, TABLE_VERSION, Cells
from leakmech.studies.mitigation.mitigation import Mitigation, told_by_parts
from leakmech.studies.mitigation.result import MitigationComparison

FACTS = "facts-fit"
"""Built-in facts that are asked."""
RELEVANT = ("relevant-matched", "relevant-self")
"""Built-in sets of relevant affect, the headline first."""

COLUMNS = (
    "name", "kind", "told", "split", "auc_el", "auc_el_low", "auc_el_high", "leakage_reduction", "retention", "fluency",
    "selectivity", "kl", "perplexity_ratio", "capability", "speed_ratio",
)  # fmt: skip
"""First columns of ``tables/mitigations.csv``."""


class _Comparison(BenchConfig):
    """Settings of a comparison that a script makes: those of its benchmark runs."""

    command: ClassVar[str] = "evaluate_mitigations"
    kind: ClassVar[str] = "mitigate"
    grows: ClassVar[Collection[str] | None] = ()


Measurable = Mitigation | Intervention | Sequence[Intervention] | Callable[[Any], Any]
"""A mitigation, interventions, or a function that makes a context manager in which a model is changed."""


def evaluate_mitigations(
    mitigations: Sequence[Measurable] | Mapping[str, Measurable],
    *,
    model: Any = None,
    tokenizer: Any = None,
    dataset: str = "hexl",
    relevant: Sequence[str] = RELEVANT,
    facts: str | None = FACTS,
    out: str | Path | None = None,
    margins: Margins | None = None,
    damage: bool = True,
    arrangements: Sequence[Arrangement] = (),
    draws: int = 2_000,
    alpha: float = 0.05,
    progress: Shown = None,
    **settings: Any,
) -> MitigationComparison:
    """Measure mitigations and the base model, or continue the measurement in `out`.

    ``evaluate_mitigations([edit], generations=4).to_markdown()`` is the whole way from an intervention to its price.

    Parameters
    ----------
    mitigations
        Mitigations, interventions (one, or several that act together), or functions of a Hugging Face model that
        return a context manager in which it is changed. A mapping gives them names.
    model, tokenizer
        As for :func:`leakmech.bench`; also what :func:`leakmech.load_model` returns.
    dataset
        The leakage set.
    relevant
        Sets of relevant affect: the first one is the headline, the second one holds self-reports.
    facts
        Facts that a model should still use (:func:`leakmech.datasets.facts.load_facts`); None asks none.
    out
        Run directory; default ``runs/mitigations-<model>-<dataset>-seed<seed>``. Finished cells are kept.
    margins
        Margins within which a side effect counts as none; set them before looking at results.
    damage
        False leaves out side effects other than fluency.
    arrangements
        Other arrangements of the leakage set (``after``, ``middle``, …), in which leakage is measured as well.
    draws, alpha
        Bootstrap resamples; level of the tests.
    progress
        A function that draws progress, True or False; None draws it in a notebook only.
    **settings
        Fields of :class:`leakmech.studies.benchmark.settings.BenchConfig`, e.g. ``generations=4, seed=0``.

    Returns
    -------
    MitigationComparison
        ``.to_frame()`` (one row per mitigation, the base model first), ``.to_markdown()``, ``.report()``.

    Raises
    ------
    UsageError
        A name, file, key or value is wrong, two mitigations share a name, or one does not fit the model.
    InterruptedRunError
        Ctrl-C or SIGTERM; finished cells and generations are in `out` and the same call continues it.
    """
    progress = shown_progress(progress)
    config = _settings(model, dataset, settings)
    chosen = as_mitigations(mitigations)
    path = run_path(out, f"mitigations-{slug(config.model)}-{slug(dataset)}-seed{config.seed}")
    Run.check(path, config)
    with dated(began(path)):
        loaded = model if isinstance(model, LoadedModel) else load_configured(config, model, tokenizer)
        cells = Cells(
            loaded=loaded, config=config, relevant=tuple(relevant), files=RunDirectory(path),
            margins=margins or Margins(), damage=damage, arrangements=tuple(arrangements),
            facts=load_facts(facts) if facts else (), version=table_version(path), draws=draws, progress=progress,
        )  # fmt: skip
        fingerprint = {"base": cells.key(BASE), "weights": loaded.weights_hash}
        with Run.open(path, config, fingerprint, table_version=cells.version) as run:
            rows = with_arrangements(run, cells, chosen, measure_all(run, cells, chosen, alpha=alpha))
            views = rows_by_estimator(cells, chosen, alpha=alpha)
            about = {"model": config.model, "dataset": dataset, "relevant": list(relevant), "facts": facts}
            return finish(run, rows, about, cells, views=views)


def table_version(path: Path) -> int:
    """Version of the table of the comparison in `path`, which goes on as it began; of a new one the newest."""
    record = RunRecord.find(path)
    return TABLE_VERSION if record is None else int(record.fact("table_version", 1))


def _settings(model: Any, dataset: str, given: Mapping[str, Any]) -> _Comparison:
    """Settings of the benchmark runs, with the name of the model if it has one."""
    name = model.name if isinstance(model, LoadedModel) else model if isinstance(model, str | Path) else None
    config = _Comparison.parse(
        {"noise_floor": False, "dataset": dataset, **({"model": str(name)} if name else {}), **given},
        where="evaluate_mitigations",
    )
    if config.engine != DEFAULT_ENGINE:
        raise ConfigError(
            f"evaluate_mitigations: side effects are measured inside the model; leave engine {config.engine!r} out, or "
            "compare runs of bench"
        )
    return config


# -- what is compared -------------------------------------------------------------------------------------------------


def as_mitigations(items: Sequence[Measurable] | Mapping[str, Measurable]) -> list[Mitigation]:
    """Turn all that can be measured into mitigations, each under a name of its own."""
    named = items.items() if isinstance(items, Mapping) else [(None, item) for item in items]
    found = [_as_mitigation(item, name) for name, item in named]
    if not found:
        raise ConfigError("mitigations: give at least one")
    seen: set[str] = {BASE.name}
    for mitigation in found:
        if mitigation.name in seen:
            raise ConfigError(
                f"mitigations: two are called {mitigation.name!r}; give a mapping of names to mitigations"
            )
        seen.add(mitigation.name)
    return found


def _as_mitigation(item: Any, name: str | None) -> Mitigation:
    if isinstance(item, Mitigation):
        return item if name is None else Mitigation(**{**vars(item), "name": name})
    if isinstance(item, Intervention):
        item = (item,)
    if isinstance(item, Sequence) and item and all(isinstance(part, Intervention) for part in item):
        described = ", ".join(map(str, item))
        told = told_by_parts({}, item)
        return Mitigation(name or described, "intervention", interventions=tuple(item), note=described, told=told)
    if callable(item):
        function: Any = item
        name = name or str(getattr(item, "__name__", type(item).__name__))
        return Mitigation(name, "intervention", hook=function, hook_version=_version(function))
    raise ConfigError(f"mitigations: expected a mitigation, interventions or a function, found {type(item).__name__}")


def _version(function: Any) -> str:
    """Hash of a function's source: a finished cell is only used again for the same text."""
    target = inspect.unwrap(function)
    if inspect.isfunction(target) and not target.__closure__:
        try:
            return hashlib.sha256(inspect.getsource(target).encode()).hexdigest()[:16]
        except OSError:
            pass
    raise ConfigError(
        f"mitigation {getattr(function, '__name__', function)!r}: its source does not say all that it does (a closure, "
        "an object or no file), so a resumed run could not tell it from another; give "
        "Mitigation(name, 'intervention', hook=..., hook_version=...)"
    )


# -- measuring --------------------------------------------------------------------------------------------------------


def measure_all(
    run: Run, cells: Cells, mitigations: Sequence[Mitigation], *, alpha: float = 0.05
) -> list[dict[str, Any]]:
    """Rows of the base model and of all mitigations, cell by cell, with tests over the whole family."""
    rows: list[dict[str, Any]] = []
    everything = [BASE, *mitigations]

    def saved() -> str:
        done = f"{len(rows)} of {len(everything)} cells of {cells.split} are finished"
        return f"{done} and what the next one generated is saved"

    with (
        run.interruptible(saved),
        cells.progress(f"mitigations, {cells.split}", total=len(everything), done=0) as advance,
    ):
        for mitigation in everything:
            rows.append(cells.row(run, mitigation) | {"told": mitigation.told})
            advance(1)
            if mitigation == BASE:
                cells.expect(run)
    scores = {mitigation.name: cells.scores(mitigation) for mitigation in everything}
    p_values = p_values_against_base(cells, scores, everything, alpha=alpha)
    return [row | p_values.get(row["name"], {}) for row in rows]


def finish(
    run: Run,
    rows: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    cells: Cells,
    timing: Mapping[str, float] | None = None,
    *,
    views: Sequence[Mapping[str, Any]] = (),
) -> MitigationComparison:
    """Write ``summary.json`` and ``tables/mitigations.csv``, and ``mitigations_by_estimator.csv`` with rows `views`."""
    frame = pd.DataFrame(list(rows))
    columns = [*COLUMNS, *(column for column in frame.columns if column not in COLUMNS)]
    run.save_table("mitigations", frame.reindex(columns=columns))
    if views:
        run.save_table("mitigations_by_estimator", pd.DataFrame(list(views)))
    summary = {
        **facts,
        "format_version": cells.version,
        **cells.about_selectivity(),
        **({"estimators": list(dict.fromkeys(row["estimator"] for row in views))} if views else {}),
        "n_samples": len(load_dataset(cells.config.dataset).take(cells.config.limit)),
        "generations": cells.config.generations,
        "seed": cells.config.seed,
        "prompt_form": cells.prompt_form,
        "margins": cells.margins.to_dict(),
        "base": dict(rows[0]),
        "mitigations": {row["name"]: dict(row) for row in rows[1:] if row["split"] == cells.split},
    }
    return run.finish(summary, timing, result=MitigationComparison)
