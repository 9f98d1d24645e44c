"""One table over many runs: every measured model beside a baseline on the same samples.

Sources (finished runs, cells of a sweep, results of files) fall into blocks: one for each data set and each way of
scoring. Within a block each is compared with the baseline, paired by sample (:mod:`leakmech.scoring.paired`), and the p
values of the block are adjusted by Holm's method; nothing is compared across blocks. Scores are read one source after
the other, so that time grows with their number and memory does not. A source that cannot be read or compared is named
with the reason, and stops no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from leakmech.core.errors import LeakmechError, RunDirectoryError, UsageError, nearest
from leakmech.core.progress import Progress, no_progress
from leakmech.runs.directory import FORMAT_VERSION, RunRecord
from leakmech.runs.result import Result
from leakmech.scoring.paired import Difference, RunEstimate, adjusted, pair_differences, run_estimates, statistic_names
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.settings import CompareConfig
from leakmech.studies.leaderboard.entry import KEPT, Source, Sums, source_of
from leakmech.studies.leaderboard.files import read_results, refuse_occupied, results_of, write_results
from leakmech.studies.leaderboard.result import Leaderboard

Block = tuple[Any, ...]
_SHARED = ("dataset", "dataset_hash", "n_samples", "estimator", "estimator_hash", "cleaning", "echo_similarity")
"""Facts that the rows of a block have in common."""


@dataclass(frozen=True)
class LeftOut:
    """What a table does not have a row of, and why; `page` is its own page, where it has one."""

    name: str
    state: str
    told: str = ""
    page: Path | None = None


def leaderboard(
    sources: Sequence[Source],
    *,
    left_out: Sequence[LeftOut] = (),
    export: str | Path | None = None,
    progress: Progress = no_progress,
    **settings: Any,
) -> Leaderboard:
    """Compare each source with the baseline of its block.

    Parameters
    ----------
    sources
        See :func:`sources_of`.
    left_out
        What is already known to be missing.
    export
        A file for the results of all sources (:mod:`leakmech.studies.leaderboard.files`).
    progress
        Where to report progress.
    **settings
        Fields of :class:`leakmech.studies.benchmark.settings.CompareConfig`; ``baseline`` is a position, a name, a
        directory, or what sets cells apart ("model=a, seed=0"). In a block without it, the first is the baseline.

    Raises
    ------
    UsageError
        There is nothing to show, the baseline is not among the sources, or a setting does not go with many runs.
    """
    chosen = _chosen(settings)
    if export is not None:
        refuse_occupied(Path(export))
    wanted = _baselines(chosen.baseline, sources)
    missing, blocks, shown = list(left_out), [], []
    with progress("comparing", total=len(sources), done=0) as advance:
        for block in _blocks(sources, chosen).values():
            named = _named_apart(block)
            found, lacking = _compared(named, [id(own) in wanted for own in block], chosen, advance)
            missing += lacking
            blocks += found
            estimates = {row["name"]: _numbers(row["estimates"]) for own in found for row in own["rows"]}
            shown += [(own, estimates[own.facts.name]) for own in named if own.facts.name in estimates]
    if not blocks:
        told = f" ({missing[0].name}: {missing[0].told or missing[0].state})" if missing else ""
        raise UsageError(f"compare: there is no finished run to show{told}")
    if export is not None:
        write_results(Path(export), results_of(shown))
    summary = {
        "format_version": FORMAT_VERSION,
        "kind": Leaderboard.kind,
        **{name: getattr(chosen, name) for name in ("statistic", "margin", "alpha", "seed", "draws")},
        "given": sorted({own.given for own in sources}),
        "blocks": blocks,
        "left_out": [asdict(own) | {"page": own.page and str(own.page)} for own in missing],
    }
    return Leaderboard(Path(), summary)


def sources_of(given: Iterable[str | Path | Result], *, cleaning: Any = None) -> tuple[list[Source], list[LeftOut]]:
    """Finished benchmarks and files of results as sources; runs of other kinds are left out by name.

    Raises
    ------
    RunDirectoryError
        One is not there, is damaged, or is neither a run nor a file of results.
    """
    sources, others = [], []
    for own in given:
        path = own.path if isinstance(own, Result) else Path(own)
        record = RunRecord.find(path) if path.is_dir() else None
        if record is None and path.is_dir():
            raise RunDirectoryError(f"{path}: is neither a finished run nor a sweep")
        if record is None:
            sources += read_results(path)
        elif record.kind == "bench":
            sources.append(source_of(own if isinstance(own, BenchResult) else path, cleaning=cleaning))
        else:
            told = f"`leakmech {record.command}` measures something else; leakmech show {path}"
            others.append(LeftOut(path.name, f"a run of kind {record.kind}", told, path / "report.html"))
    return sources, others


def _chosen(settings: Mapping[str, Any]) -> CompareConfig:
    given = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    chosen = CompareConfig.parse(given)
    if chosen.all_pairs:
        raise UsageError("compare: all pairs are for runs that are named; a table over many has one baseline")
    if chosen.statistic not in KEPT:
        raise UsageError(
            f"compare: {chosen.statistic} is of completions that runs have in common, not for a table over many; "
            "name two runs"
        )
    return chosen


def _named_apart(sources: Sequence[Source]) -> list[Source]:
    """Sources of one name get where they come from behind it, and a number if that is one, too."""
    for suffix in ("where", "number"):
        counts = Counter(own.facts.name for own in sources)
        seen: Counter[str] = Counter()
        named = []
        for own in sources:
            name = own.facts.name
            seen[name] += 1
            if counts[name] > 1:
                added = Path(own.given).name if suffix == "where" else str(seen[name])
                own = replace(own, facts=replace(own.facts, name=f"{name} ({added})"))
            named.append(own)
        sources = named
    return list(sources)


def _blocks(sources: Sequence[Source], chosen: CompareConfig) -> dict[Block, list[Source]]:
    """Sources that can be compared, together."""
    found: dict[Block, list[Source]] = {}
    for own in sources:
        facts = own.facts
        key: list[Any] = [facts.dataset_hash, facts.n_samples, facts.cleaning, facts.echo_similarity]
        key += [] if chosen.any_estimator else [facts.estimator_hash]
        key += [facts.encoder_hash] if chosen.statistic.startswith("topic_free") else []
        found.setdefault(tuple(key), []).append(own)
    return found


def _baselines(wanted: int | str | None, sources: Sequence[Source]) -> set[int]:
    """The sources (by ``id``) that may be baselines; of several in a block, the first is."""
    if wanted is None:
        return set()
    if isinstance(wanted, int):
        if not -len(sources) <= wanted < len(sources):
            raise UsageError(f"compare: baseline {wanted} is not a position among {len(sources)} runs")
        return {id(sources[wanted])}
    found = {id(own) for own in sources if _is(own, wanted)}
    if not found:
        known = {own.facts.name for own in sources}
        hint = nearest(wanted, known) if len(known) < 30 else ""
        raise UsageError(f"compare: the baseline {wanted!r} is none of the {len(sources)} runs{hint}")
    return found


def _is(source: Source, wanted: str) -> bool:
    place = Path(source.given)
    if wanted in (source.facts.name, place.name) or Path(wanted).resolve() == place.resolve():
        return True
    parts = [part.partition("=") for part in wanted.split(",")]
    return all(sep and source.differs.get(axis.strip()) == value.strip() for axis, sep, value in parts)


def _compared(
    block: Sequence[Source], is_wanted: Sequence[bool], chosen: CompareConfig, advance: Callable[[int], None]
) -> tuple[list[dict[str, Any]], list[LeftOut]]:
    """The block, if anything of it can be shown, and what is left out of it."""
    base: tuple[Source, Sums] | None = None
    as_wanted = False
    rows: dict[str, dict[str, Any]] = {}
    differences: list[Difference] = []
    missing = []
    for place in sorted(range(len(block)), key=lambda place: not is_wanted[place]):  # stable: the baseline comes first
        own, name = block[place], block[place].facts.name
        advance(1)
        try:
            sums = _readable(own, chosen.statistic, base)
        except (LeakmechError, KeyError) as error:
            told = f"{error}" if isinstance(error, LeakmechError) else f"its scores lack {error}"
            missing.append(LeftOut(f"{name}, {own.facts.dataset}", "not comparable", told, own.page))
            continue
        columns = sums.columns(chosen.statistic)
        drawn: dict[str, Any] = {"headline": chosen.statistic, "seed": chosen.seed, "draws": chosen.draws}
        rows[name] = _row(own, run_estimates(name, columns, **drawn), is_baseline=base is None)
        if base is None:
            base, as_wanted = (own, sums), is_wanted[place]
        else:
            pair, against = (name, base[0].facts.name), base[1].columns(chosen.statistic)
            differences += pair_differences(pair, columns, against, margin=chosen.margin, **drawn)
    if base is None:
        return [], missing
    for difference in adjusted(differences, headline=chosen.statistic, alpha=chosen.alpha):
        rows[difference.run]["differences"].append(asdict(difference))
    shown = [own for own in block if own.facts.name in rows]
    notes = _notes(shown, base[0], instead=chosen.baseline is not None and not as_wanted)
    head = {name: getattr(base[0].facts, name) for name in _SHARED} | {"baseline": base[0].facts.name}
    in_order = sorted((rows[own.facts.name] for own in shown), key=_by_family_and_size)
    return [{**head, "notes": notes, "rows": in_order}], missing


def _readable(source: Source, statistic: str, base: tuple[Source, Sums] | None) -> Sums:
    """The sums of a source, if they can be compared with the baseline's."""
    sums = source.sums(statistic_names(statistic))
    if statistic not in sums.ratios:
        raise RunDirectoryError(f"has no {statistic}")
    if len(sums.ratios[statistic].numerator) != source.facts.n_samples:
        raise RunDirectoryError("its scores are of other samples than it says")
    if base is not None and sums.samples != base[1].samples:
        raise RunDirectoryError(f"its scores hold other samples than those of {base[0].facts.name}")
    return sums


def _row(source: Source, estimates: Sequence[RunEstimate], *, is_baseline: bool) -> dict[str, Any]:
    return {
        **asdict(source.facts),
        "differs": dict(source.differs),
        "given": source.given,
        "page": source.page and str(source.page),
        "is_baseline": is_baseline,
        "estimates": list(map(asdict, estimates)),
        "differences": [],
    }


def _numbers(estimates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {own["statistic"]: {end: own[end] for end in ("value", "low", "high")} for own in estimates}


def _by_family_and_size(row: Mapping[str, Any]) -> tuple[bool, str, float]:
    return row["family"] is None, row["family"] or "", row["n_parameters"] or 0


def _notes(rows: Sequence[Source], base: Source, *, instead: bool) -> list[str]:
    """What a reader must know about how the rows of a block were made; `instead` of another baseline."""
    notes = []
    if instead:
        notes.append(f"The baseline that was asked for was not measured here; {base.facts.name} stands for it.")
    for attribute, text in (
        ("generations", "Generations per prompt differ: numbers are not biased by that, only less precise."),
        ("seed", "Seeds differ: rows with another seed than the baseline's are not coupled, so their differences vary "
         "more."),
        ("dtype", "Number formats differ: part of a difference may be rounding."),
        ("decoding", "Decoding differs."),
        ("prompt_form", "Prompt forms differ."),
        ("arrangement", "Injections stand in other places: arrangements differ."),
        ("estimator_hash", "Estimators differ: the numbers are on different scales."),
    ):  # fmt: skip
        if len({str(getattr(own.facts, attribute)) for own in rows}) > 1:
            notes.append(text)
    return notes


__all__ = ["LeftOut", "Source", "leaderboard", "source_of", "sources_of"]
