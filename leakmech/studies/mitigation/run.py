"""``mitigate``: strengths chosen on ``tune`` samples, the chosen ones measured once on ``test`` samples.

    tune    every family at every strength: leakage and tilt on the diagnosis' tune samples, retention on relevant
            affect that nothing was fitted on, every other fact, fluency; the strength with the highest selectivity is
            chosen for each family
    test    the chosen ones, the adapters and interventions that were asked for, baselines and the oracle on the leakage
            set and on the sets of relevant affect, with all side effects
    claimed what a claim is made about once more, over several generation seeds, pooled

A diagnosis that is not named is made first (:mod:`leakmech.studies.mitigation.own_diagnosis`). Where only adapters and
interventions are to be judged, there is none: nothing is fitted and nothing chosen, and they are measured beside the
base model and the oracle.

Random edits of the size that was chosen (:mod:`leakmech.studies.mitigation.random_baselines`) are drawn several times.

Everything is kept cell by cell (:mod:`leakmech.studies.mitigation.cells`), so an interrupted run goes on where it was.
The interventions that were chosen are saved as files that ``leakmech bench --intervention`` takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leakmech.core.errors import ConfigError, nearest
from leakmech.core.progress import Progress, Shown, shown_progress
from leakmech.core.store import content_hash, read_json, slug, write_json
from leakmech.datasets.facts import facts_to_choose_on, facts_to_report_on, load_facts
from leakmech.datasets.relation import mismatched, with_exchanged, without_self_reports
from leakmech.interventions.checks import refuse_misfits
from leakmech.interventions.files import load_interventions, save_interventions
from leakmech.models.configured import load_configured
from leakmech.models.device import dtype_name
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel, load_adapter
from leakmech.prompts.dates import dated
from leakmech.prompts.render import Prompting, Renderer, ResolvedForm
from leakmech.reports.tables import Table
from leakmech.runs.directory import SCRIPT, began
from leakmech.runs.run import Run, run_path
from leakmech.side_effects.equivalence import Margins
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.mitigation.arranged import with_arrangements, worth_arranging
from leakmech.studies.mitigation.by_estimator import rows_by_estimator
from leakmech.studies.mitigation.catalogue import NULL_SPACE_SHARES
from leakmech.studies.mitigation.cells import Cells
from leakmech.studies.mitigation.cost import cost_table, estimate, planned
from leakmech.studies.mitigation.evaluation import FACTS, finish, measure_all, table_version
from leakmech.studies.mitigation.families import BASELINES, families_of, fitting_families
from leakmech.studies.mitigation.family import Family
from leakmech.studies.mitigation.frozen import record_frozen, refuse_another_choice
from leakmech.studies.mitigation.mitigation import Mitigation, told_by_parts
from leakmech.studies.mitigation.own_diagnosis import keep_source, own_diagnosis
from leakmech.studies.mitigation.parts import FittedParts, load_fitted
from leakmech.studies.mitigation.prompting import ORACLE
from leakmech.studies.mitigation.random_baselines import random_bands
from leakmech.studies.mitigation.report import write_report
from leakmech.studies.mitigation.result import MitigationComparison
from leakmech.studies.mitigation.sample_sets import (
    refuse_shared,
    refuse_unfit_samples,
    relevant_to_fit,
    relevant_to_judge,
)
from leakmech.studies.mitigation.settings import OWN, MitigateConfig

Row = dict[str, Any]
Heard = dict[str, Any]
"""Who hears of progress, and of the precision to be expected: arguments of :class:`Cells`."""


def mitigate(
    model: Any = None,
    *,
    diagnosis: str | Path | None = None,
    tokenizer: Any = None,
    out: str | Path | None = None,
    progress: Shown = None,
    interim: Callable[[str], None] | None = None,
    **settings: Any,
) -> MitigationComparison:
    """Try mitigations, choose their strengths, and measure what each lowers and what it damages.

    Parameters
    ----------
    model, tokenizer, progress, interim
        As for :func:`leakmech.bench`; `interim` takes a line about the precision to be expected.
    diagnosis
        Directory of a finished diagnosis of the same model, with a ``tune`` split, or ``own``: one is made in `out`,
        which takes time. None is ``own``, unless ``adapters`` or ``interventions`` are all that is judged.
    out
        Run directory; default ``runs/mitigate-<model>-<dataset>-seed<seed>``. One that holds this run is continued,
        with other families, adapters or interventions as well: what was measured is not measured again.
    **settings
        Fields of :class:`leakmech.studies.mitigation.settings.MitigateConfig`.

    Returns
    -------
    MitigationComparison
        ``.to_frame()`` (one row per mitigation and split, the base model first), ``.to_markdown()``, ``.report()``.

    Raises
    ------
    UsageError
        A name, file, key or value is wrong, or the diagnosis is of another model or form or has no ``tune`` split.
    InterruptedRunError
        Ctrl-C or SIGTERM; finished cells are in `out` and the same call continues it.
    """
    progress = shown_progress(progress)
    settings |= {"model": str(model)} if isinstance(model, str | Path) else {}
    config = MitigateConfig.parse({**settings, "diagnosis": str(diagnosis) if diagnosis else None}, where="mitigate")
    path = run_path(out, f"mitigate-{slug(config.model)}-{slug(config.dataset)}-seed{config.seed}")
    Run.check(path, config)
    with dated(began(path)):
        refuse_another_choice(path, config)
        if config.diagnosis == OWN:
            refuse_unfit_samples(config)
        started = time.perf_counter()
        (families, left_out), given = families_of(config), _given(config)
        bench = _bench_config(config, config.dataset, config.generations, config.limit)
        by_name = model is None or isinstance(model, str | Path)
        loaded = load_configured(bench, None if by_name else model, tokenizer)
        form = Renderer(loaded.tokenizer, Prompting.of(bench)).resolved_form
        refuse_misfit_files(config, loaded, form)
        families, misfits = fitting_families(families, form, named=bool(config.families))
        _refuse_unknown_claims(config, [*(family.name for family in families), *(own.name for own in given)])
        named = config.diagnosis not in (None, OWN)
        parts = _fitted_parts(config, str(config.diagnosis), loaded, form, progress) if named else None
        fingerprint = {"settings": content_hash(str(config.terms())), "weights": loaded.weights_hash}
        fingerprint |= {"fitted_on": parts.source_hash} if parts else {}
        facts: dict[str, Any] = {"dtype": dtype_name(loaded.dtype), "table_version": table_version(path)}
        facts |= {} if by_name else {SCRIPT: True}
        heard: Heard = {"progress": progress, "say": interim}
        with (
            Run.open(path, config, fingerprint, **facts) as run,
            run.interruptible(lambda: "what was fitted and measured is saved"),
        ):
            if interim is not None:
                interim(estimate(planned(config, families, given=len(given), loaded=loaded), loaded))
            if config.diagnosis == OWN:
                made = own_diagnosis(config, run, loaded, by_name=by_name, progress=progress, say=interim)
                parts = _fitted_parts(config, made, loaded, form, progress)
                keep_source(run, parts.source_hash)
            cells = _test_cells(config, bench, loaded, run, heard)
            found = _compare(config, run, cells, parts, families, given, left_out | misfits)
            timing = {"total_s": round(time.perf_counter() - started, 1)}
            result = finish(run, found.rows, found.about, found.test, timing, views=found.views)
            write_report(path)
        return result


def mitigation_cost(**settings: Any) -> Table:
    """What a comparison with the settings of :func:`mitigate` would cost; the model is loaded and nothing is written.

    Raises
    ------
    UsageError
        A name, file, key or value is wrong.
    """
    config = MitigateConfig.parse(settings, where="mitigate")
    bench = _bench_config(config, config.dataset, config.generations, config.limit)
    (families, _), given = families_of(config), _given(config)
    loaded = load_configured(bench, None, None)
    form = Renderer(loaded.tokenizer, Prompting.of(bench)).resolved_form
    families, _ = fitting_families(families, form, named=bool(config.families))
    return cost_table(planned(config, families, given=len(given), loaded=loaded), loaded)


@dataclass(frozen=True)
class _Compared:
    """Everything of a comparison but its files."""

    test: Cells
    rows: list[Row]
    views: list[Row]
    about: Row


def _compare(
    config: MitigateConfig,
    run: Run,
    test: Cells,
    parts: FittedParts | None,
    families: Sequence[Family],
    given: Sequence[Mitigation],
    left_out: Mapping[str, str],
) -> _Compared:
    """Choose strengths, and measure what was chosen, what was given, and what both are held against."""
    heard: Heard = {"progress": test.progress, "say": test.say}
    fitted = run.path / "fitted"
    about_parts = _fitted_facts(parts, fitted, families)  # first: a run that goes on fits nothing to tell them again
    chosen, tuned = _choose(config, parts, families, run, heard) if parts else ({}, [])
    frozen = record_frozen(run, config, chosen, given)
    judged_by = parts if config.baselines else None
    baselines = [one for family in BASELINES for one in family.members(judged_by, fitted)] if judged_by else []
    compared = [*chosen.values(), *given, ORACLE, *baselines]
    rows = measure_all(run, test, compared, alpha=config.alpha)
    rows = with_arrangements(run, test, worth_arranging(compared, rows) if parts else compared, rows)
    rows += random_bands(run, test, judged_by, chosen, draws=config.random_draws) if judged_by else []
    views = rows_by_estimator(test, compared, alpha=config.alpha)
    rows += _claimed(config, run, test, chosen | {mitigation.name: mitigation for mitigation in given})
    about = {
        **{name: getattr(config, name) for name in ("model", "dataset", "facts", "diagnosis")},
        "relevant": list(config.relevant),
        **about_parts,
        "chosen": {name: mitigation.name for name, mitigation in chosen.items()},
        "left_out": left_out,
        **({"frozen": frozen} if frozen else {}),
        **({"quick": True} if config.quick else {}),
    }
    return _Compared(test, [*rows, *tuned], views, about)


def _fitted_parts(
    config: MitigateConfig, path: str | Path, loaded: LoadedModel, form: ResolvedForm, progress: Progress
) -> FittedParts:
    """What families are built from; none of it shares an injection with what is measured."""
    relevant, judged_on = relevant_to_fit(config), (config.dataset, *config.relevant)
    parts = load_fitted(
        path, loaded, form=form, relevant=relevant, seed=config.seed, progress=progress, judged_on=judged_on
    )
    refuse_shared(config, [parts.splits["fit"], parts.splits["tune"], relevant])
    return parts


def _choose(
    config: MitigateConfig,
    parts: FittedParts,
    families: Sequence[Family],
    run: Run,
    heard: Heard,
) -> tuple[dict[str, Mitigation], list[Row]]:
    """The most selective member of each family, by its name and saved, and the rows of all that were tried."""
    members = {family.name: family.members(parts, run.path / "fitted") for family in families}
    tuned: list[Row] = []
    if any(family.is_choice for family in families):
        tune = _tune_cells(config, parts, run, heard)
        tuned = measure_all(run, tune, [member for group in members.values() for member in group])
    chosen = {name: best_of(group, tuned) for name, group in members.items()}
    for name, mitigation in chosen.items():
        if mitigation.interventions:
            file = run.path / "interventions" / f"{name}.json"
            save_interventions(mitigation.interventions, file, prompt_form=parts.prompt_form)
    return chosen, tuned


def best_of(members: list[Mitigation], rows: list[Row]) -> Mitigation:
    """The member whose row has the highest selectivity; of equal ones the first; one alone needs no row."""
    if len(members) == 1:
        return members[0]
    by_name = {row["name"]: row for row in rows}

    def selectivity(member: Mitigation) -> float:
        value = by_name[member.name]["selectivity"]
        return -1.0 if value is None else value

    return max(members, key=selectivity)


def _bench_config(config: MitigateConfig, dataset: str, generations: int, limit: int | None) -> BenchConfig:
    shared = {name: getattr(config, name) for name in BenchConfig.model_fields if name in MitigateConfig.model_fields}
    shared |= {"dataset": dataset, "generations": generations, "limit": limit, "noise_floor": False}
    return BenchConfig.parse(shared, where="mitigate")


def _version(run: Run) -> int:
    """The version of the table that the run began with."""
    return int(run.record.fact("table_version", 1))


def _test_cells(config: MitigateConfig, bench: BenchConfig, loaded: LoadedModel, run: Run, heard: Heard) -> Cells:
    """What is reported: nothing was fitted or chosen on it."""
    facts = load_facts(config.facts) if _version(run) > 1 else ()
    facts = facts_to_report_on(facts) if config.facts == FACTS else facts
    return Cells(
        loaded=loaded, config=bench, files=run.files, split="test", damage=not config.quick,
        relevant=relevant_to_judge(config, run.path / "data"),
        margins=Margins(**config.margins), arrangements=config.arrangements, draws=config.bootstrap_draws,
        facts=facts[: config.facts_limit], version=_version(run), **heard,
    )  # fmt: skip


def _claimed(config: MitigateConfig, run: Run, test: Cells, judged: Mapping[str, Mitigation]) -> list[Row]:
    """Rows of what a claim is made about, with the base model and the oracle, over several seeds pooled."""
    if not config.claimed:
        return []
    several = replace(test, split="claimed", home=test.split, seeds=config.seeds)
    return measure_all(run, several, [*(judged[name] for name in config.claimed), ORACLE], alpha=config.alpha)


def _refuse_unknown_claims(config: MitigateConfig, names: Sequence[str]) -> None:
    for name in config.claimed:
        if name not in names:
            raise ConfigError(f"claimed: there will be no row of {name!r}{nearest(name, names)}")


def _tune_cells(config: MitigateConfig, parts: FittedParts, run: Run, heard: Heard) -> Cells:
    """What strengths are chosen on: relevant affect that no probe was fitted on, facts, and two kinds of leakage.

    These are the samples that the diagnosis chose on, and as many in which the relevant stems have injections of other
    themes: leakage that only what decides by relevance can lower alone.
    """
    number = config.tune_samples
    relevant = without_self_reports(parts.relevant).split("tune")
    exchanged = mismatched(relevant, seed=config.seed).take(number)
    leakage = with_exchanged(parts.splits["tune"].take(number), exchanged)
    data = run.path / "data"
    for name, samples in {"leakage": leakage, "relevant": relevant.take(number)}.items():
        samples.save(data / f"tune-{name}.jsonl")
    bench = _bench_config(config, str(data / "tune-leakage.jsonl"), config.tune_generations, None)
    return Cells(
        loaded=parts.loaded, config=bench, relevant=(str(data / "tune-relevant.jsonl"),), files=run.files,
        split="tune", margins=Margins(**config.margins), damage=False,
        draws=min(500, config.bootstrap_draws), **heard,
        facts=facts_to_choose_on(load_facts(FACTS)) if _version(run) > 1 else (), version=_version(run),
    )  # fmt: skip


def refuse_misfit_files(config: MitigateConfig, loaded: LoadedModel, form: ResolvedForm) -> None:
    """Refuse adapters and interventions that are not there or fit another model or form, before hours are spent."""
    hashes = {loaded.weights_hash, loaded.base_hash}
    for path in config.interventions:
        given = load_interventions(path, prompt_form=form)
        refuse_misfits(given, layout_of(loaded.model), model_hashes=hashes)
    for path in config.adapters:
        load_adapter(loaded, path)


def _given(config: MitigateConfig) -> list[Mitigation]:
    """Adapters and intervention files that the user wants to see in the table."""
    adapters = [
        Mitigation(name, "adapter", {"adapter": path}, note=path)
        for name, path in _names("adapter", config.adapters).items()
    ]
    files = [
        Mitigation(name, "intervention", settings, note=path, told=told_by_parts(settings))
        for name, path in _names("file", config.interventions).items()
        for settings in [{"intervention": path}]
    ]
    return [*adapters, *files]


def _names(kind: str, paths: Sequence[str]) -> dict[str, str]:
    """Paths by name: their last part, or all parts if another has that name already.

    Names of earlier paths do not depend on later ones, so that a run that takes in more keeps its cells.
    """
    found: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        bare = Path(path) if kind == "adapter" else Path(path).with_suffix("")
        last = slug(bare) if kind == "adapter" else bare.name
        whole = slug("-".join(part for part in bare.parts if part != bare.anchor))
        name = next((name for name in (f"{kind}-{last}", f"{kind}-{whole}") if name not in found), None)
        if name is None:
            raise ConfigError(f"{path}: would have the same name in the table as another; rename one of them")
        found[name] = path
    return found


def _fitted_facts(parts: FittedParts | None, fitted: Path, families: Sequence[Family]) -> Row:
    """What a summary says of the probes and maps in the interventions that were saved; null where none is used."""
    names = {family.name for family in families}
    gated = {family.told for family in families if family.name.endswith("if-unrelated")}
    found: dict[str, tuple[bool, Callable[[FittedParts], Row]]] = {
        "relation_probe": ("boundary" in gated, lambda own: own.relation_probe.to_dict()),
        "relation_gate": ("nothing" in gated, lambda own: own.relation_gate.to_dict()),
        "null_space": ("null-space" in names, lambda own: own.unrelated_maps.to_dict(NULL_SPACE_SHARES)),
        "residual_direction": (
            any(name.startswith("residual-direction") for name in names),
            lambda own: own.residual_directions.to_dict(),
        ),
        "focus": ("focus" in names, lambda own: own.focus.to_dict()),
    }
    facts: Row = {}
    for name, (used, make) in found.items():
        file = fitted / f"{name}.json"
        if parts and used and not file.exists():
            write_json(file, make(parts))
        facts[name] = read_json(file) if parts and used else None
    return facts
