"""Comparison of finished runs over the same samples: is one model, or one mitigation, different from another?

What is computed stands in :mod:`leakmech.scoring.paired`; here runs are read, and those that cannot be compared are
refused: runs over other samples, or scored in another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import combinations, product
from pathlib import Path
from typing import Any, Self

import pandas as pd

from leakmech.core.errors import RunDirectoryError, UsageError, nearest
from leakmech.core.store import is_occupied, read_json, write_json
from leakmech.core.tables import write_table
from leakmech.reports.tables import Table
from leakmech.runs.directory import FORMAT_VERSION, RunRecord
from leakmech.runs.result import Drawing, Result
from leakmech.scoring.paired import (
    HEADLINE,
    Difference,
    RunEstimate,
    run_differences,
    run_estimates,
    statistic_columns,
)
from leakmech.scoring.records import leakage_scores
from leakmech.scoring.sentence import DEFAULT_ECHO_SIMILARITY, Cleaning
from leakmech.studies.benchmark.comparison_report import (
    by_estimator_table,
    comparison_table,
    draw_comparison,
    write_report,
)
from leakmech.studies.benchmark.headline import headline_ratios, refuse_other_completions
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.settings import CompareConfig

COMPARISON_FILE = "comparison.json"


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """What :func:`compare` found.

    Attributes
    ----------
    path
        Where :meth:`load` found it; the current folder for one that was just made.
    summary
        All of it, JSON-ready, as in ``comparison.json``.
    """

    kind = "compare"

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the comparison that :meth:`save` wrote into the folder `path`."""
        return cls(Path(path), read_json(Path(path) / COMPARISON_FILE))

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs, in the order given."""
        return tuple(self.summary["runs"])

    @property
    def paths(self) -> tuple[str, ...]:
        """Their directories."""
        return tuple(self.summary["paths"])

    @property
    def cleaning(self) -> Cleaning:
        """Cleaning policy of the scores."""
        return self.summary["cleaning"]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know about how the runs differ."""
        return tuple(self.summary["notes"])

    @cached_property
    def estimates(self) -> tuple[RunEstimate, ...]:
        """One entry per run and statistic."""
        return tuple(RunEstimate(**values) for values in self.summary["estimates"])

    @cached_property
    def differences(self) -> tuple[Difference, ...]:
        """One entry per comparison and statistic."""
        return tuple(Difference(**values) for values in self.summary["differences"])

    @property
    def statistic(self) -> str:
        """What the comparison is about; a margin and the verdicts are those of this statistic."""
        return self.summary.get("statistic", HEADLINE)

    def estimate(self, run: str, statistic: str | None = None) -> RunEstimate:
        """The value of one statistic of one run; None: the one that the comparison is about."""
        return next(e for e in self.estimates if (e.run, e.statistic) == (run, statistic or self.statistic))

    def of(self, statistic: str | None = None) -> list[Difference]:
        """The comparisons of one statistic; None: the one that the comparison is about."""
        return [d for d in self.differences if d.statistic == (statistic or self.statistic)]

    def to_frame(self) -> pd.DataFrame:
        """One row per comparison and statistic, with the values of both runs."""
        rows = []
        for d in self.differences:
            values = {
                f"{side}_{name}": getattr(self.estimate(run, d.statistic), name)
                for side, run in (("run", d.run), ("baseline", d.baseline))
                for name in ("value", "low", "high")
            }
            rows.append(asdict(d) | values)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return dict(self.summary)

    def to_table(self) -> Table:
        """One row per comparison."""
        return comparison_table(self.summary)

    def tables(self) -> list[Table]:
        """The table, and the one of all estimators that the runs share if there are several."""
        views = by_estimator_table(self.summary)
        return [self.to_table()] if views is None else [self.to_table(), views]

    def figures(self) -> Mapping[str, Drawing]:
        """``forest``: the differences with their intervals."""
        return {"forest": partial(draw_comparison, self.summary)}

    def report(self) -> Path:
        """Write ``report.html`` of a saved comparison and return its path."""
        return write_report(self.path)

    def save(self, out: str | Path) -> Path:
        """Write ``comparison.json``, its table, ``forest.png`` / ``.pdf`` and ``report.html`` into the folder `out`.

        Raises
        ------
        UsageError
            `out` holds something else: files of the user, a run, or a comparison of other runs.
        StorageError
            The file system refuses.
        """
        out = Path(out)
        self._refuse_other(out)
        write_json(out / COMPARISON_FILE, self.to_dict())
        write_table(out / "tables" / "comparison.csv", self.to_frame())
        write_report(out)
        return out

    def _refuse_other(self, out: Path) -> None:
        if out.is_file():
            raise UsageError(f"{out}: is a file; a comparison is a folder; choose another --out")
        before = out / COMPARISON_FILE
        if before.exists():
            there = read_json(before).get("paths")
            if there != list(self.paths):
                raise UsageError(f"{out}: holds a comparison of other runs; choose another --out, or delete it")
        elif is_occupied(out):
            raise UsageError(f"{out}: is not empty and holds no comparison; choose another --out")


def compare(runs: Sequence[str | Path | BenchResult], **settings: Any) -> Comparison:
    """Compare finished runs over the same samples.

    Parameters
    ----------
    runs
        At least two run directories (or results).
    **settings
        Fields of :class:`leakmech.studies.benchmark.settings.CompareConfig`, e.g. ``margin=0.05, all_pairs=True,
        statistic="contrast"``; ``baseline`` is a run's position, its name or its directory. Set ``margin`` and
        ``statistic`` before looking at the runs.

    Returns
    -------
    Comparison
        ``.to_frame()``, ``.to_table()``, ``.save(folder)``.

    Raises
    ------
    UsageError
        Fewer than two runs, one given twice, an unknown baseline or policy, or a number out of range.
    RunDirectoryError
        A run is not finished, does not have the statistic, or the runs cannot be compared: other samples, cleaning
        policies or estimators.
    """
    named = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    chosen = CompareConfig.parse(named)
    loaded = _load(runs)
    policy = chosen.cleaning or _common_policy(loaded)
    _refuse_incomparable(loaded, chosen)
    scores = {run.name: leakage_scores(run.result.scores, policy) for run in loaded}
    if len({s.samples for s in scores.values()}) > 1:
        raise RunDirectoryError(
            "compare: scores.parquet of the runs hold different samples though their data set is one; run bench again"
        )
    if chosen.statistic == "tilt":
        refuse_other_completions([run.result for run in loaded])
    columns = {
        run.name: statistic_columns(own, *headline_ratios(run.result, own, policy, chosen.statistic))
        for run, own in zip(loaded, scores.values(), strict=True)
    }
    names = tuple(columns)
    reference = loaded[_position(chosen.baseline or 0, loaded)].name
    pairs = [(later, earlier) for earlier, later in combinations(names, 2)]
    if not chosen.all_pairs:
        pairs = [(name, reference) for name in names if name != reference]
    drawn = {"seed": chosen.seed, "draws": chosen.draws}
    about: dict[str, Any] = {"headline": chosen.statistic, **drawn}
    estimates = [e for name in names for e in run_estimates(name, columns[name], **about)]
    differences = run_differences(columns, pairs, margin=chosen.margin, alpha=chosen.alpha, **about)
    views = _by_estimator(loaded, policy, pairs, chosen)
    summary = {
        "format_version": FORMAT_VERSION,
        "kind": Comparison.kind,
        "runs": list(names),
        "paths": [str(run.result.path) for run in loaded],
        "n_samples": len(next(iter(scores.values())).samples),
        "cleaning": policy,
        "statistic": chosen.statistic,
        "margin": chosen.margin,
        "alpha": chosen.alpha,
        **drawn,
        "estimates": list(map(asdict, estimates)),
        "differences": list(map(asdict, differences)),
        **({"by_estimator": views} if views else {}),
        "notes": _notes(loaded),
    }
    return Comparison(Path(), summary)


def _by_estimator(
    runs: Sequence[_Run], policy: Cleaning, pairs: Sequence[tuple[str, str]], chosen: CompareConfig
) -> dict[str, list[dict[str, Any]]]:
    """The same differences under every estimator that all runs have, the first one's first; empty if there is no other.

    Each estimator's tests are a family of their own.
    """
    first, *others = runs
    known = [other.estimators for other in others]
    shared = [name for name, own in first.estimators.items() if all(of.get(name) == own for of in known)]
    found = {}
    for name in shared if len(shared) > 1 else ():
        columns = {}
        for run in runs:
            other = None if name == run.result.summary["estimator"] else name
            scores = leakage_scores(run.result.scores, policy, estimator=other)
            columns[run.name] = statistic_columns(
                scores, *headline_ratios(run.result, scores, policy, chosen.statistic, estimator=other)
            )
        differences = run_differences(
            columns, pairs, headline=chosen.statistic, margin=chosen.margin, alpha=chosen.alpha, seed=chosen.seed,
            draws=chosen.draws,
        )  # fmt: skip
        found[name] = list(map(asdict, differences))
    return found


@dataclass(frozen=True)
class _Run:
    """A finished run with the name it goes by here."""

    name: str
    result: BenchResult

    @property
    def record(self) -> RunRecord:
        return self.result.record

    @property
    def path(self) -> Path:
        return self.result.path

    @property
    def estimators(self) -> dict[str, dict[str, Any]]:
        """What decides the numbers of each of its estimators, by name."""
        recorded = [self.record.fact("estimator", {}), *self.record.fact("other_estimators", [])]
        return {one["name"]: {k: v for k, v in one.items() if k != "device"} for one in recorded if one}


def _load(runs: Sequence[str | Path | BenchResult]) -> list[_Run]:
    """The runs, each named by its directory, or by its whole path where two directories have one name."""
    runs = [runs] if isinstance(runs, str | Path) else runs
    if len(runs) < 2:
        raise UsageError(f"compare: at least two runs are needed, found {len(runs)}")
    results = [run if isinstance(run, BenchResult) else BenchResult.load(run) for run in runs]
    seen: set[Path] = set()
    for result in results:
        place = result.path.resolve()
        if place in seen:
            raise UsageError(f"compare: {result.path} is given twice; a run does not differ from itself")
        seen.add(place)
    short = [result.path.resolve().name for result in results]
    return [
        _Run(name if short.count(name) == 1 else str(result.path), result)
        for name, result in zip(short, results, strict=True)
    ]


def _position(baseline: int | str, runs: Sequence[_Run]) -> int:
    if isinstance(baseline, int):
        if not -len(runs) <= baseline < len(runs):
            raise UsageError(f"compare: baseline {baseline} is not a position among {len(runs)} runs")
        return baseline
    for position, run in enumerate(runs):
        if baseline == run.name or Path(baseline).resolve() == run.path.resolve():
            return position
    names = [run.name for run in runs]
    raise UsageError(f"compare: the baseline {baseline!r} is none of the runs{nearest(baseline, names)}")


def _common_policy(runs: Sequence[_Run]) -> Cleaning:
    first, *others = runs
    for run in others:
        if run.result.summary["cleaning"] != first.result.summary["cleaning"]:
            raise RunDirectoryError(
                f"compare: {first.path} is cleaned by {first.result.summary['cleaning']!r} and {run.path} by "
                f"{run.result.summary['cleaning']!r}; choose one for both with --cleaning"
            )
    return first.result.summary["cleaning"]


def _refuse_incomparable(runs: Sequence[_Run], chosen: CompareConfig) -> None:
    first, *others = runs
    decides = ["dataset", "echo_similarity"]
    decides += [] if chosen.any_estimator else ["estimator"]
    decides += ["encoder"] if chosen.statistic.startswith("topic_free") else []
    for run, key in product(others, decides):
        (one, said), (other, said_too) = _decisive(first, key), _decisive(run, key)
        if one != other:
            what, cure = _DECISIVE[key]
            raise RunDirectoryError(
                f"compare: {first.path} and {run.path} are runs over different {what} ({said} and {said_too}); {cure}"
            )


_DECISIVE = {
    "dataset": ("data sets", "run bench on the same --dataset with the same --limit"),
    "echo_similarity": ("thresholds of echoes", "score both with one --echo-similarity"),
    "estimator": ("estimators", "score both with one --estimator, or ask for it with --any-estimator"),
    "encoder": ("sentence encoders, which tell the topic", "score both with one --encoder"),
}
"""What must be the same in runs that are compared, and how to make it so."""


def _decisive(run: _Run, key: str) -> tuple[Any, str]:
    """What one of these is in a run, and how it is said."""
    record, summary = run.record, run.result.summary
    if key == "echo_similarity":
        value = record.config.get(key, DEFAULT_ECHO_SIMILARITY)
        return value, f"{value:g}"
    value = record.fingerprint.get(key)
    if key == "encoder":
        return value, f"hash {value}"
    size = f", {summary['n_samples']} samples" if key == "dataset" else ""
    return value, f"{summary[key]}{size}, hash {value}"


def _notes(runs: Sequence[_Run]) -> list[str]:
    """How the runs were made differently, other than by model."""
    notes = []
    by_generations = {run.name: run.result.summary["generations"] for run in runs}
    if len(set(by_generations.values())) > 1:
        counts = ", ".join(f"{name} {k}" for name, k in by_generations.items())
        notes.append(f"Generations per prompt differ ({counts}): auc_el is not biased by that, only less precise.")
    scored = [run.name for run in runs if run.record.command == "score"]
    if scored:
        notes.append(f"Texts from elsewhere ({', '.join(scored)}): whether they are coupled to others is not known.")
    for key, what in (("seed", "Seeds"), ("dtype", "Number formats"), ("estimator", "Estimators")):
        # What `leakmech score` calls seed is that of the bootstrap, and of number formats it knows nothing.
        own = [run for run in runs if key == "estimator" or run.name not in scored]
        values = {run.name: run.result.summary.get(key) for run in own}
        if len(set(map(str, values.values()))) > 1:
            text = f"{what} differ ({', '.join(f'{name} {value}' for name, value in values.items())})"
            notes.append(text + _CONSEQUENCES[key])
    return notes


_CONSEQUENCES = {
    "seed": ": runs with other seeds are not coupled, so that differences have more variance.",
    "dtype": ": part of a difference may be rounding.",
    "estimator": ": the numbers are on different scales.",
}
