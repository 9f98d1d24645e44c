"""Simulated runs whose truth is known: do 95 % intervals cover, and do tests reject as often as they say?

2,000 runs of 60 samples with 5 generations a prompt. Samples differ (stems, prompts and the strength of leakage), the
two prompts of a sample share their control, P has few values so that ties are common, and 2 % of the generations are
not scored. The truth of a statistic is its value over the samples of all runs together. The Monte Carlo error of a
share of 2,000 runs is 0.5 points at 5 %; tests that are quick are simulated 4,000 times (0.35 points).
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from leakmech.datasets.samples import CONDITIONS, POLARITIES
from leakmech.scoring.inference import equivalence, holm, pseudo_values, swap_test
from leakmech.scoring.leakage import LeakageScores, leakage_differences, polarity_swap_tests
from leakmech.scoring.paired import STATISTICS, paired_difference, statistic_columns
from leakmech.scoring.statistics import bootstrap, ratios_of_sums, wilcoxon_greater

RUNS, SAMPLES, K = 2000, 60, 5
BLOCK = 250  # runs that are simulated at once
DRAWS = 2000
SWAPS = 999  # so that p has 0.05 among its values
SIGN = {"control": 0, "positive": 1, "neutral": 0, "negative": -1}


def _samples(generator, n):
    """What a sample is for every run: how glad its stem and its prompts are, and how strongly it leaks."""
    return {
        "stem": generator.normal(scale=0.8, size=n),
        "prompt": {c: generator.normal(scale=0.4, size=n) for c in CONDITIONS},
        "leakage": generator.normal(scale=0.5, size=n),
    }


def _run(generator, samples, *, leakage, heterogeneous=True, charge=0.0):
    """Scores of one run over `samples`; `charge` moves answers upwards after either polarity."""
    n = len(samples["stem"])

    def probabilities(condition):
        strength = leakage + (samples["leakage"] if heterogeneous else 0)
        moved = SIGN[condition] * strength + charge * abs(SIGN[condition])
        mean = samples["stem"] + samples["prompt"][condition] + moved
        glad = 1 / (1 + np.exp(-(mean[:, None] + generator.normal(size=(n, K)))))
        charged = generator.beta(6, 2, size=(n, K))
        p = np.round(np.stack([charged * (1 - glad), 1 - charged, charged * glad], axis=-1), 1)
        p[generator.random((n, K)) < 0.02] = np.nan
        return p

    return LeakageScores(tuple(map(str, range(n))), {c: probabilities(c) for c in CONDITIONS})


def _split(array):
    """One entry per simulated run."""
    return array.reshape(-1, SAMPLES, *array.shape[1:])


def _one(scores, run):
    """The scores of one simulated run of a block."""
    rows = slice(run * SAMPLES, (run + 1) * SAMPLES)
    return LeakageScores(scores.samples[rows], {c: p[rows] for c, p in scores.probabilities.items()})


def _blocks(seed, *, runs=RUNS):
    for block in range(runs // BLOCK):
        generator = np.random.default_rng([seed, block])
        yield generator, _samples(generator, BLOCK * SAMPLES)


@pytest.fixture(scope="module")
def pairs():
    """Columns of a base run, three repetitions of it and a changed run, (runs, samples, columns) each."""
    found = []
    for generator, samples in _blocks(1):
        runs = [_run(generator, samples, leakage=0.6) for _ in range(4)]
        runs.append(_run(generator, samples, leakage=0.3))
        found.append([_split(statistic_columns(scores)) for scores in runs])
    return [np.concatenate(blocks) for blocks in zip(*found, strict=True)]


def _truth(columns, statistic):
    return statistic(columns.reshape(-1, columns.shape[-1]).sum(axis=0, keepdims=True))[0]


@pytest.mark.long
def test_95_percent_intervals_cover_in_93_to_97_percent_of_runs(pairs):
    both = np.concatenate([pairs[-1], pairs[0]], axis=2)

    def statistic(sums):
        run, _ = np.split(sums, 2, axis=1)
        return np.hstack([ratios_of_sums(run), paired_difference(sums)])

    truth = _truth(both, statistic)
    names = [*STATISTICS, *(f"{name} difference" for name in STATISTICS)]
    covered = np.zeros((RUNS, len(names)))
    for i in range(RUNS):
        intervals = bootstrap(both[i], statistic, seed=i, draws=DRAWS, level=0.95)
        covered[i] = [interval.low <= t <= interval.high for interval, t in zip(intervals, truth, strict=True)]
    shares = dict(zip(names, covered.mean(axis=0), strict=True))
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


def _rejections(p_values):
    """Share of tests that reject at 5 %, by column."""
    return np.mean(np.asarray(p_values) <= 0.05, axis=0)


@pytest.mark.long
def test_runs_that_are_repetitions_differ_as_often_as_alpha_says_and_families_no_more_often(pairs):
    p = np.empty((RUNS, 3, len(STATISTICS)))
    for i, j in itertools.product(range(RUNS), range(3)):
        base, again = pairs[0][i], pairs[1 + j][i]
        tests = swap_test(np.hstack([again, base]), np.hstack([base, again]), paired_difference, seed=i, draws=SWAPS)
        p[i, j] = [test.p for test in tests]
    shares = _rejections(p.reshape(-1, len(STATISTICS)))
    family = _rejections([holm(p[i, :, 0]).min() for i in range(RUNS)])
    assert np.all(np.abs(shares - 0.05) < 0.01), shares
    assert 0.03 < family < 0.06  # below 0.05, since all three are compared with one baseline


def test_runs_that_differ_by_the_margin_are_called_equivalent_as_often_as_alpha_says(pairs):
    *repetitions, changed = pairs
    both = np.concatenate([np.concatenate([changed, base], axis=2) for base in repetitions])
    margin = abs(_truth(both, paired_difference)[0])
    p = [equivalence(pseudo_values(columns, paired_difference)[:, 0], margin=margin) for columns in both]
    assert abs(_rejections(p) - 0.05) < 0.01


@pytest.mark.long
def test_without_leakage_the_signed_rank_test_per_sample_rejects_as_often_as_alpha_says():
    """The test per prompt rejects less often: the prompts of a sample share their control (see leakage_statistics)."""
    per_sample, per_prompt = [], []
    for generator, samples in _blocks(2, runs=2 * RUNS):
        scores = _run(generator, samples, leakage=0.0)
        d = _split(np.stack([leakage_differences(scores, c) for c in POLARITIES], axis=1))
        per_sample += [wilcoxon_greater(np.round(np.nanmean(run, axis=1), 12)) for run in d]
        per_prompt += [wilcoxon_greater(run.ravel()) for run in d]
    assert abs(_rejections(per_sample) - 0.05) < 0.01
    assert _rejections(per_prompt) < _rejections(per_sample)


@pytest.mark.long
def test_if_polarity_does_not_matter_the_swap_tests_reject_as_often_as_alpha_says():
    p = []
    for generator, samples in _blocks(3, runs=2 * RUNS):
        scores = _run(generator, samples, leakage=0.0, charge=0.4)
        for run in range(BLOCK):
            tests = polarity_swap_tests(_one(scores, run), seed=run, draws=SWAPS)
            p.append([tests["auc_el"].p, tests["valence_shift"].p])
    shares = _rejections(p)
    assert np.all(np.abs(shares - 0.05) < 0.01), shares
