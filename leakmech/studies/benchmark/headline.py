"""The statistic that a comparison of runs is about, from the scores of each run.

Topic-free ones leave out, in each run, its own answers that are about the injection, by the same rule for all runs
(:mod:`leakmech.scoring.topic`). Tilts are of the same completions in all runs, or they cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from leakmech.core.errors import RunDirectoryError
from leakmech.scoring.leakage import LeakageScores, main_ratios
from leakmech.scoring.paired import STATISTICS
from leakmech.scoring.records import column, topic_ranks
from leakmech.scoring.sentence import Cleaning
from leakmech.scoring.statistics import UnitRatio
from leakmech.scoring.topic import on_injection, without_topic
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.settings import Statistic
from leakmech.studies.benchmark.tilt_files import read_completions

_OF_TOPIC_FREE = {
    "topic_free": "auc_el",
    "topic_free_contrast": "contrast",
    "topic_free_valence_shift": "valence_shift",
}


def headline_ratios(
    result: BenchResult,
    scores: LeakageScores,
    policy: Cleaning,
    statistic: Statistic,
    *,
    estimator: str | None = None,
) -> tuple[UnitRatio, ...]:
    """What a run contributes to `statistic`, by sample; nothing for one that every comparison has.

    `scores` are the run's under the cleaning `policy`, by `estimator` (None: the headline's). RunDirectoryError for a
    run that cannot tell topic, or has no tilt.
    """
    if result.summary.get("no_mu_el") and not statistic.endswith("valence_shift"):
        raise RunDirectoryError(
            f"compare: {result.path} has no {statistic}: {result.summary['no_mu_el']}; compare its shift between the "
            "two orders with --statistic valence_shift"
        )
    if statistic in STATISTICS:
        return ()
    if statistic == "tilt":
        return (UnitRatio.mean_of(result.tilt_shifts(scores.samples, estimator=estimator).to_numpy()),)
    if statistic not in _OF_TOPIC_FREE:
        return (main_ratios(scores)[statistic],)
    _refuse_untold(result, policy, statistic)
    flags = on_injection(topic_ranks(result.scores, policy))
    return (main_ratios(without_topic(scores, flags))[_OF_TOPIC_FREE[statistic]],)


def _refuse_untold(result: BenchResult, policy: Cleaning, statistic: Statistic) -> None:
    if column(policy, "topic_positive") in result.scores.columns:
        return
    reason = (result.summary.get("topic") or {}).get("reason")
    if reason:
        raise RunDirectoryError(f"compare: {result.path} has no {statistic}: topic is not told ({reason})")
    raise RunDirectoryError(
        f"compare: {result.path} does not say which answers are about the injection; make a run of the same answers "
        f"that does with: leakmech score {result.path}"
    )


def refuse_other_completions(results: Sequence[BenchResult]) -> None:
    """RunDirectoryError for runs without tilt, or with the tilt of different completions."""
    first, *others = results
    texts = _texts(first)
    for other in others:
        if _texts(other) != texts:
            raise RunDirectoryError(
                f"compare: {first.path} and {other.path} have the tilt of different completions; make one of them with "
                f"--tilt-from {first.path}"
            )


def _texts(result: BenchResult) -> dict[str, list[str]]:
    if not result.summary.get("tilt"):
        raise RunDirectoryError(f"compare: {result.path} has no tilt; run bench with --tilt")
    lines = read_completions(result.files)
    return {sample: [completion["text"] for completion in line["completions"]] for sample, line in lines.items()}
