"""What power a number of samples and generations has to see an effect on auc_el.

The test is the two-sided one-sample t test over samples, of one run's auc_el against 0.5 or of the paired difference of
two runs, with standard error sqrt(V / n). With the components of :mod:`leakmech.studies.benchmark.variance`,

    V = between + within(K)                           against chance,
    V = 2 (1 - shared) between + 2 within(K)          between two runs with independent noise,

and the power is a tail of the noncentral t distribution with n - 1 degrees of freedom and noncentrality
effect sqrt(n / V). (statsmodels' TTestPower gives NaN for large effects and does not converge for few samples, hence
SciPy's distribution and the few lines around it.)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import optimize, stats

from leakmech.core.errors import UsageError, nearest
from leakmech.reports.cells import number
from leakmech.reports.tables import Table
from leakmech.runs.result import Readable
from leakmech.scoring.records import leakage_scores
from leakmech.scoring.sentence import Cleaning
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.variance import VarianceComponents, variance_components

Against = Literal["runs", "chance"]
TARGET_POWER = 0.8
_LARGEST: dict[Against, float] = {"runs": 1.0, "chance": 0.5}
_MOST_SAMPLES = 1_000_000

EMBEDDED_COMPONENTS = VarianceComponents(
    between=0.00363, test=0.03295, control=0.01134, pair=0.03437, shared_control=-0.01695,
    source="embedded:smollm2-135m-instruct on hexl, 60 samples x 10 generations, seed 0, echo-free",
)  # fmt: skip
"""Measured on a run of the embedded model: a stand-in until there is a run of the model in question."""


@dataclass(frozen=True, repr=False)
class PowerResult(Readable):
    """What a design can see; see :func:`power`.

    Attributes
    ----------
    power
        Probability of p < alpha in a two-sided t test over samples, in [0, 1].
    standard_error
        Standard error of the estimated effect, in units of auc_el.
    samples_needed
        Fewest samples with a power of 0.8 for `effect`, the generations kept; None above a million.
    detectable_effect
        Smallest effect that this design sees with a power of 0.8; None where the largest there is would be missed.
    """

    effect: float
    samples: int
    generations: int
    against: Against
    alpha: float
    shared: float
    components: VarianceComponents
    power: float
    standard_error: float
    samples_needed: int | None
    detectable_effect: float | None

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return asdict(self)

    def __repr__(self) -> str:
        design = f"{self.samples} samples x {self.generations} generations"
        return f"PowerResult({self.power:.2f} for an effect of {self.effect:g} with {design})"

    def to_frame(self) -> pd.DataFrame:
        """One row with every number."""
        return pd.json_normalize(self.to_dict())

    def tables(self) -> list[Table]:
        """The table."""
        return [self.to_table()]

    def to_table(self) -> Table:
        """The power, and the numbers that it rests on."""
        c, detectable = self.components, self.detectable_effect
        smallest = "none" if detectable is None else number(detectable, decimals=3)
        runs = self.against == "runs"
        rows = [
            ("power", number(self.power)),
            ("standard error", number(self.standard_error, decimals=4)),
            ("smallest effect seen with a power of 0.8", smallest),
            ("samples needed for a power of 0.8", _count(self.samples_needed)),
            ("variance between samples", number(c.between, decimals=5)),
            ("variance over test generations / K", number(c.test / self.generations, decimals=5)),
            ("variance over control generations / K", number(c.control / self.generations, decimals=5)),
            ("variance over pairs / K^2", number(c.pair / self.generations**2, decimals=5)),
        ]
        notes = [f"Variances of one sample's auc_el: {c.source}. Two-sided t test over samples, alpha {self.alpha:g}."]
        if runs:
            notes.append(
                f"Two runs on the same samples with independent noise that share {self.shared:.0%} of the variance "
                "between samples (--shared). Coupled runs of similar models have less variance, hence more power."
            )
        question = "a difference of two runs" if runs else "a difference of one run from 0.5"
        design = f"{self.samples} samples x {self.generations} generations"
        title = f"Power for {question} of {self.effect:g} in auc_el: {design}"
        return Table(title=title, header=("quantity", "value"), rows=rows, notes=notes)


def power(
    effect: float,
    *,
    samples: int,
    generations: int,
    run: str | Path | BenchResult | None = None,
    components: VarianceComponents | None = None,
    against: Against = "runs",
    shared: float = 0.5,
    alpha: float = 0.05,
    cleaning: Cleaning | None = None,
) -> PowerResult:
    """Power to see an effect on auc_el, and the number of samples that it takes.

    Parameters
    ----------
    effect
        Difference of auc_el to be seen, not 0; inside [-1, 1] between runs and [-0.5, 0.5] against chance.
    samples, generations
        The design: number of samples (at least 2) and K.
    run
        A finished run whose variance components are taken; it may have any number of samples and generations.
    components
        Components to take instead; without either those of the embedded model (:data:`EMBEDDED_COMPONENTS`).
    against
        ``runs``: a difference between two runs on the same samples. ``chance``: one run against 0.5.
    shared
        For ``runs``: the share, in [0, 1], of the variance between samples that both runs have in common and that
        pairing takes out; 1 when the change moves all samples alike. It cannot be known from one run.
    alpha
        Level, inside (0, 1).
    cleaning
        Cleaning policy of the scores of `run`; default: the headline policy of the run.

    Returns
    -------
    PowerResult
        ``.power``, ``.samples_needed``, ``.detectable_effect``, ``.to_table()``.

    Raises
    ------
    UsageError
        A number is out of range, or both `run` and `components` are given.
    RunDirectoryError
        `run` is not a finished run.
    """
    if against not in get_args(Against):
        raise UsageError(f"power: unknown comparison {against!r}{nearest(str(against), get_args(Against))}")
    _check_design(effect, samples, generations, shared, alpha, largest=_LARGEST[against])
    if run is not None and components is not None:
        raise UsageError("power: give a run or variance components, not both")
    if run is not None:
        components = run_components(run, cleaning=cleaning)
    components = components or EMBEDDED_COMPONENTS
    variance = components.per_sample(generations)
    if against == "runs":
        variance = 2 * (1 - shared) * components.between + 2 * components.within(generations)
    deviation = float(np.sqrt(variance))
    return PowerResult(
        effect=effect,
        samples=samples,
        generations=generations,
        against=against,
        alpha=alpha,
        shared=shared,
        components=components,
        power=_t_power(abs(effect), deviation, samples, alpha),
        standard_error=deviation / float(np.sqrt(samples)),
        samples_needed=_samples_needed(abs(effect), deviation, alpha),
        detectable_effect=_detectable(deviation, samples, alpha, largest=_LARGEST[against]),
    )


def run_components(run: str | Path | BenchResult, *, cleaning: Cleaning | None = None) -> VarianceComponents:
    """Variance components of auc_el of a finished run.

    See :func:`leakmech.studies.benchmark.variance.variance_components`.
    """
    result = run if isinstance(run, BenchResult) else BenchResult.load(run)
    summary = result.summary
    policy = cleaning or summary["cleaning"]
    source = (
        f"{summary['model']} on {summary['dataset']}, {summary['n_samples']} samples x {summary['generations']} "
        f"generations, seed {summary['seed']}, {policy}"
    )
    return variance_components(leakage_scores(result.scores, policy), source=source)


def _check_design(
    effect: float, samples: int, generations: int, shared: float, alpha: float, *, largest: float
) -> None:
    if not 0 < abs(effect) <= largest:
        raise UsageError(
            f"power: effect must be a difference of auc_el, not 0, inside [-{largest:g}, {largest:g}]; found {effect}"
        )
    if samples < 2 or generations < 1:
        raise UsageError(f"power: at least 2 samples and 1 generation are needed; found {samples} and {generations}")
    if not (0 <= shared <= 1 and 0 < alpha < 1):
        raise UsageError(f"power: shared must lie in [0, 1] and alpha inside (0, 1); found {shared} and {alpha}")


def _count(samples: int | None) -> str:
    return f"more than {_MOST_SAMPLES:,}" if samples is None else f"{samples:,}"


def _t_power(effect: float, deviation: float, samples: int, alpha: float) -> float:
    """Power of the two-sided one-sample t test."""
    if deviation == 0:
        return 1.0
    critical, shift = stats.t.isf(alpha / 2, samples - 1), effect * np.sqrt(samples) / deviation
    wrong_side = stats.nct.cdf(-critical, samples - 1, shift)  # SciPy gives NaN where it is too small for its series
    return float(stats.nct.sf(critical, samples - 1, shift) + np.nan_to_num(wrong_side))


def _samples_needed(effect: float, deviation: float, alpha: float) -> int | None:
    low, high = 1, 2
    while _t_power(effect, deviation, high, alpha) < TARGET_POWER:
        low, high = high, 2 * high
        if high > _MOST_SAMPLES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _t_power(effect, deviation, middle, alpha) >= TARGET_POWER else (middle, high)
    return high


def _detectable(deviation: float, samples: int, alpha: float, *, largest: float) -> float | None:
    def missing(effect: float) -> float:
        return _t_power(effect, deviation, samples, alpha) - TARGET_POWER

    if deviation == 0:
        return 0.0
    if missing(largest) < 0:
        return None
    return float(optimize.brentq(missing, 0.0, largest))  # pyright: ignore[reportArgumentType] - never the full output
