"""Leakage reduction, retention and selectivity: identities, values with a known truth, paired intervals."""

import numpy as np
import pytest

from leakmech.core.errors import UsageError
from leakmech.datasets.samples import CONDITIONS
from leakmech.scoring.leakage import LeakageScores, overall_leakage, valence_shifts
from leakmech.side_effects.fluency import N_COLUMNS, AnswerQuality
from leakmech.side_effects.selectivity import (
    Pair,
    charged,
    clipped,
    flat,
    fluency_part,
    harmonic_mean,
    leakage_reduction,
    oracle_is_shown,
    reduction_part,
    removal_part,
    retention,
    retention_part,
    selectivity,
    shift_part,
)

SIGN = {"control": 0, "positive": 1, "neutral": 0, "negative": -1}
DRAWS = 500


def make_scores(leakage, *, n=40, k=6, prefix="s", noise_seed=0):
    """Valence that moves by `leakage` towards the injection; scores with one `noise_seed` are coupled."""
    noise, stems = np.random.default_rng(noise_seed), np.random.default_rng(9)
    stem, strength = stems.normal(size=n), stems.normal(1, 0.3, size=n)
    probabilities = {}
    for condition in CONDITIONS:
        mean = stem + SIGN[condition] * leakage * strength
        glad = 1 / (1 + np.exp(-(mean[:, None] + noise.normal(size=(n, k)))))
        probabilities[condition] = np.stack([0.8 * (1 - glad), np.full_like(glad, 0.2), 0.8 * glad], axis=-1)
    return LeakageScores(tuple(f"{prefix}{i}" for i in range(n)), probabilities)


def make_quality(answers, *, nats=2.0, n=40, prefix="s"):
    columns = np.tile([nats * 100, 100, 20, 20, 60, 80, 50, 60, 38, 40], (n, 1))
    assert columns.shape[1] == N_COLUMNS
    return AnswerQuality(answers, tuple(f"{prefix}{i}" for i in range(n)), columns)


def first_version(leakage, relevant, quality, **options):
    """Selectivity of version 1 of the table."""
    parts = [reduction_part(leakage), shift_part("retention", relevant), fluency_part(*quality)]
    return selectivity(parts, charge=clipped, **options)


@pytest.fixture
def answers(answers_of):
    return answers_of([[["x"]]], conditions=["control"])


def test_an_unchanged_model_reduces_nothing_and_retains_everything(answers):
    pair = Pair(make_scores(1.0), make_scores(1.0))
    reduction, kept = leakage_reduction(pair, draws=DRAWS), retention(pair, draws=DRAWS)
    assert (reduction.value, reduction.low, reduction.high) == (0, 0, 0)
    assert (kept.value, kept.low, kept.high) == (1, 1, 1)
    quality = make_quality(answers)
    found = first_version(pair, pair, (quality, quality), draws=DRAWS)
    assert found["selectivity"].value == 0
    assert found["fluency"].value == 1


def test_values_follow_from_auc_el_and_valence_shift():
    base, mitigated = make_scores(1.0), make_scores(0.3)
    auc = [overall_leakage(scores, pairing="all").value for scores in (base, mitigated)]
    shift = [valence_shifts(scores)["valence_shift"].mean() for scores in (base, mitigated)]
    pair = Pair(base, mitigated)
    reduction, kept = leakage_reduction(pair, draws=DRAWS), retention(pair, draws=DRAWS)
    assert reduction.value == pytest.approx(1 - (auc[1] - 0.5) / (auc[0] - 0.5))
    assert kept.value == pytest.approx(shift[1] / shift[0])
    assert 0.4 < reduction.low < reduction.value < reduction.high < 1
    assert kept.low < kept.value < kept.high < 1


def test_a_model_that_loses_all_affect_is_not_selective_and_a_good_one_is(answers):
    quality = make_quality(answers), make_quality(answers, nats=2.05)
    leakage = Pair(make_scores(1.0), make_scores(0.05))
    deaf = first_version(leakage, Pair(make_scores(1.5), make_scores(0.1)), quality, draws=DRAWS)
    good = first_version(leakage, Pair(make_scores(1.5), make_scores(1.4)), quality, draws=DRAWS)
    assert deaf["selectivity"].high < 0.4
    assert good["selectivity"].low > 0.75
    assert good["fluency"].value == pytest.approx(np.exp(-0.05))
    row = flat(good)
    parts = [row[name] for name in ("leakage_reduction", "retention", "fluency")]
    assert row["selectivity"] == pytest.approx(3 / sum(1 / min(1, part) for part in parts))
    assert row["selectivity_low"] == good["selectivity"].low


def test_coupled_runs_give_narrower_intervals():
    base = make_scores(1.0, noise_seed=0)
    coupled = leakage_reduction(Pair(base, make_scores(0.8, noise_seed=0)), draws=2000)
    apart = leakage_reduction(Pair(base, make_scores(0.8, noise_seed=1)), draws=2000)
    assert coupled.high - coupled.low < 0.7 * (apart.high - apart.low)


def test_sets_may_have_other_samples(answers):
    quality = make_quality(answers), make_quality(answers)
    leakage = Pair(make_scores(1.0), make_scores(0.2))
    relevant = Pair(make_scores(1.5, n=25, prefix="r"), make_scores(1.4, n=25, prefix="r"))
    found = first_version(leakage, relevant, quality, draws=4000)
    alone, among = retention(relevant, draws=4000), found["retention"]
    assert among.value == pytest.approx(alone.value)
    assert found["leakage_reduction"].value == pytest.approx(leakage_reduction(leakage, draws=DRAWS).value)
    # Drawn among more units, the interval is that of the set alone, within the noise of the draws.
    assert among.high - among.low == pytest.approx(alone.high - alone.low, rel=0.25)


def test_the_harmonic_mean_is_of_clipped_parts():
    found = harmonic_mean(np.array([[1.0, 1, 1], [2, 1, 1], [0.5, 1, 1], [-0.3, 1, 1], [0, 1, 1], [np.nan, 1, 1]]))
    np.testing.assert_allclose(found, [1, 1, 0.75, 0, 0, np.nan])


def test_where_there_is_nothing_to_reduce_or_retain_there_is_no_number():
    inverted = Pair(make_scores(-1.0), make_scores(0.5))
    assert np.isnan(leakage_reduction(inverted, draws=DRAWS).value)
    assert np.isnan(retention(inverted, draws=DRAWS).value)


def test_retention_compares_the_same_samples():
    base, mitigated = make_scores(1.0), make_scores(1.0)
    for condition in ("positive", "negative"):
        mitigated.probabilities[condition][:10] = np.nan  # these answers are empty after cleaning
    kept = retention(Pair(base, mitigated), draws=DRAWS)
    assert kept.value == pytest.approx(1)


def test_other_samples_are_refused(answers):
    with pytest.raises(UsageError, match="different samples"):
        Pair(make_scores(1.0), make_scores(1.0, prefix="t"))
    with pytest.raises(UsageError, match="different samples"):
        fluency_part(make_quality(answers), make_quality(answers, prefix="t"))


# -- what version 2 charges -------------------------------------------------------------------------------------------

UNITS = ("a", "b", "c", "d")
BASE = np.array([0.8, 0.4, 0.6, np.nan])
ORACLE = np.array([0.2, -0.2, 0.0, 0.0])


def test_removal_is_told_in_units_of_what_the_oracle_takes_out():
    row = np.array([0.5, 0.1, 0.3, 9.0])  # means over the first three: base .6, row .3, oracle 0
    assert removal_part("removal", UNITS, BASE, row, ORACLE).estimate(draws=100).value == pytest.approx(0.5)
    assert removal_part("removal", UNITS, BASE, BASE, ORACLE).estimate(draws=100).value == 0
    assert removal_part("removal", UNITS, BASE, ORACLE, ORACLE).estimate(draws=100).value == 1
    assert removal_part("removal", UNITS, BASE, -BASE, ORACLE).estimate(draws=100).value == pytest.approx(2)
    assert np.isnan(removal_part("removal", UNITS, ORACLE, ORACLE, BASE).estimate(draws=100).value)


@pytest.mark.parametrize(("taken", "shown"), [(0.5, True), (0.0, False), (0.2, False), (-0.5, False)])
def test_an_oracle_that_is_not_shown_to_lower_anything_is_told(taken, shown):
    units = [str(n) for n in range(40)]
    base = taken + np.random.default_rng(0).permutation(np.linspace(-1.5, 1.5, 40))  # mean `taken`, standard error 0.14
    assert oracle_is_shown(removal_part("removal", units, base, base, np.zeros(40))) is shown


@pytest.mark.parametrize(("taken", "shown"), [(0.5, True), (0.0, False), (0.2, False)])
def test_a_share_of_what_is_not_shown_has_no_interval(taken, shown):
    units = [str(n) for n in range(40)]
    base = taken + np.random.default_rng(0).permutation(np.linspace(-1.5, 1.5, 40))
    part = removal_part("removal", units, base, base / 2, np.zeros(40))
    kept = retention_part("kept", units, np.ones(40), np.full(40, 0.9))
    found = selectivity([part, kept], draws=DRAWS)
    assert [np.isfinite(one.low) for one in (part.estimate(draws=DRAWS), found["removal"])] == [shown, shown]
    assert (np.isfinite(found["selectivity"].low), np.isfinite(found["kept"].low)) == (shown, True)


@pytest.mark.fault("X328", "answers", "a shift that the oracle does not lower", "no interval")
def test_where_the_oracle_takes_nothing_out_no_edit_is_shown_to():
    draws, units = np.random.default_rng(1), [str(n) for n in range(20)]
    lows = [
        removal_part("removal", units, *draws.normal(size=(3, 20))).estimate(draws=200, seed=trial).low
        for trial in range(300)
    ]
    assert np.mean(np.array(lows) > 0) < 0.02  # a row must be shown to lower what the oracle happens to lower


def test_a_ratio_compares_units_that_all_models_have():
    row = np.array([0.4, np.nan, 0.3, 5.0])
    assert retention_part("kept", UNITS, BASE, row).estimate(draws=100).value == pytest.approx(0.7 / 1.4)


def test_overshooting_costs_as_much_as_falling_short():
    np.testing.assert_allclose(charged(np.array([1, 0.7, 1.3, 0, 2, -0.4, 2.5])), [1, 0.7, 0.7, 0, 0, 0, 0])
    assert np.isnan(charged(np.array([np.nan]))).all()


def test_selectivity_is_the_harmonic_mean_of_all_that_is_charged():
    removal = removal_part("removal", UNITS, BASE, np.array([0.5, 0.1, 0.3, 0.0]), ORACLE)  # 0.5
    kept = retention_part("retention", ("r", "s"), np.array([1.0, 1.0]), np.array([1.5, 0.9]))  # 1.2, so 0.8
    facts = retention_part("retention_facts", ("f", "g"), np.array([1.0, 1.0]), np.array([1.0, 0.5]))  # 0.75
    found = selectivity([removal, kept, facts], draws=100)
    assert list(found) == ["removal", "retention", "retention_facts", "selectivity"]
    assert found["retention"].value == pytest.approx(1.2)
    assert found["selectivity"].value == pytest.approx(3 / (1 / 0.5 + 1 / 0.8 + 1 / 0.75))
    undone = removal_part("removal_tilt", UNITS, BASE, BASE, ORACLE)
    assert selectivity([removal, undone], draws=100)["selectivity"].value == 0


# -- under a null whose truth is known --------------------------------------------------------------------------------

SIMULATED, N = 250, 40
NULLS = ("nothing", "topic-free", "half", "kept", "facts")


@pytest.fixture(scope="module")
def covered():
    """How often each 95 % interval holds the truth of a row that does nothing, or half of what the oracle does."""
    rng = np.random.default_rng(3)
    hits = dict.fromkeys(NULLS, 0)
    for seed in range(SIMULATED):
        units = tuple(map(str, range(N)))
        own = rng.normal(1, 0.5, size=N)  # of a sample, whatever the model

        def drawn(share, own=own):
            return own * share + rng.normal(scale=0.6, size=N)

        def answers(share, own=own):
            """Means of three answers to either polarity, of which some are about the injection and dropped."""
            each = share * own[:, None] + rng.normal(scale=0.8, size=(N, 3))
            left = np.where(rng.random((N, 3)) < 0.4, np.nan, each)
            number = np.isfinite(left).sum(axis=1)
            return np.where(number > 0, np.nansum(left, axis=1) / number.clip(1), np.nan)

        base, oracle = drawn(1), drawn(0)
        knows = rng.random(N) < 0.8
        part = {
            "nothing": (removal_part("r", units, base, drawn(1), oracle), 0),
            "topic-free": (removal_part("r", units, answers(1), answers(1), answers(0)), 0),
            "half": (removal_part("r", units, base, drawn(0.5), oracle), 0.5),
            "kept": (retention_part("t", units, base, drawn(1)), 1),
            "facts": (
                retention_part("f", units, knows, np.where(rng.random(N) < 0.2, rng.permutation(knows), knows)),
                1,
            ),
        }
        for name, (own_part, truth) in part.items():
            found = own_part.estimate(seed=seed, draws=400)
            hits[name] += found.low <= truth <= found.high
    return {name: hit / SIMULATED for name, hit in hits.items()}


@pytest.mark.parametrize("name", NULLS)
def test_intervals_of_ratios_hold_the_truth_as_often_as_they_say(covered, name):
    assert 0.91 <= covered[name] <= 0.985  # a share of 250 is within 0.028 of 0.95 in 19 of 20
