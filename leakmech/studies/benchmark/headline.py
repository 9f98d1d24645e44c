"""The statistic that a comparison of runs is about, from the scores of each run.

Topic-free ones leave out, in each run, its own answers that are about the injection, by the same rule for all runs
(:mod:`leakmech.scoring.topic`).
"""

from __future__ import annotations

from leakmech.core.errors import RunDirectoryError
from leakmech.scoring.leakage import LeakageScores, main_ratios
from leakmech.scoring.paired import STATISTICS
from leakmech.scoring.records import column, topic_ranks
from leakmech.scoring.sentence import Cleaning
from leakmech.scoring.statistics import UnitRatio
from leakmech.scoring.topic import on_injection, without_topic
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.settings import Statistic

_OF_TOPIC_FREE = {
    "topic_free": "auc_el",
    "topic_free_contrast": "contrast",
    "topic_free_valence_shift": "valence_shift",
}


def headline_ratios(
    result: BenchResult, scores: LeakageScores, policy: Cleaning, statistic: Statistic
) -> tuple[UnitRatio, ...]:
    """What a run contributes to `statistic`, by sample; nothing for one that every comparison has.

    `scores` are the run's under the cleaning `policy`. RunDirectoryError for a run that cannot tell topic.
    """
    if statistic in STATISTICS:
        return ()
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
