from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower
from typer.testing import CliRunner

import leakmech
from leakmech.cli.app import app
from leakmech.core.errors import UsageError
from leakmech.studies.benchmark.power import EMBEDDED_COMPONENTS
from leakmech.studies.benchmark.variance import VarianceComponents

COMPONENTS = VarianceComponents(between=0.004, test=0.03, control=0.01, pair=0.03, shared_control=-0.01)
designs = st.tuples(st.floats(0.01, 0.4), st.integers(2, 300), st.integers(1, 40))


def test_power_is_that_of_the_t_test_with_the_variance_of_the_design():
    found = leakmech.power(0.03, samples=50, generations=10, components=COMPONENTS, against="chance")
    variance = 0.004 + 0.04 / 10 + 0.03 / 100
    assert found.standard_error == pytest.approx(np.sqrt(variance / 50))
    assert found.power == pytest.approx(TTestPower().power(0.03 / np.sqrt(variance), 50, 0.05))
    paired = leakmech.power(0.03, samples=50, generations=10, components=COMPONENTS, shared=0.25)
    assert paired.standard_error == pytest.approx(np.sqrt((1.5 * 0.004 + 2 * 0.0043) / 50))


def test_power_is_how_often_a_t_test_of_simulated_differences_finds_the_effect():
    found = leakmech.power(-0.05, samples=12, generations=10, components=COMPONENTS)
    deviation = found.standard_error * np.sqrt(12)
    differences = np.random.default_rng(0).normal(-0.05, deviation, size=(20_000, 12))
    assert found.power == pytest.approx((stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05).mean(), abs=0.01)


@given(designs)
def test_samples_needed_are_the_fewest_and_the_detectable_effect_is_just_seen(design):
    effect, samples, generations = design
    found = leakmech.power(effect, samples=samples, generations=generations)
    assert 0.05 <= found.power <= 1

    def again(effect, samples):
        return leakmech.power(effect, samples=samples, generations=generations).power

    assert again(effect, found.samples_needed) >= 0.8
    if found.samples_needed > 2:
        assert again(effect, found.samples_needed - 1) < 0.8
    if found.detectable_effect is not None:
        assert again(found.detectable_effect, samples) == pytest.approx(0.8, abs=1e-6)


@given(designs)
def test_more_generations_and_more_samples_never_lower_the_power(design):
    effect, samples, generations = design
    base = leakmech.power(effect, samples=samples, generations=generations).power
    assert leakmech.power(effect, samples=samples, generations=generations + 5).power >= base - 1e-9
    assert leakmech.power(effect, samples=samples + 5, generations=generations).power >= base - 1e-9


def test_what_no_design_can_see_is_said():
    tiny = leakmech.power(1e-6, samples=10, generations=10)
    assert tiny.samples_needed is None
    assert "more than 1,000,000" in tiny.to_table().to_markdown()
    few = leakmech.power(0.5, samples=2, generations=2)
    assert few.detectable_effect is None
    assert "| smallest effect seen with a power of 0.8 | none |" in few.to_table().to_markdown()


def test_the_table_names_the_source_of_the_variances():
    text = leakmech.power(0.05, samples=60, generations=10).to_table().to_markdown()
    assert EMBEDDED_COMPONENTS.source in text
    assert "share 50% of the variance between samples" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"effect": 0.0}, r"not 0, inside \[-1, 1\]; found 0"),
        ({"effect": 0.6, "against": "chance"}, r"inside \[-0.5, 0.5\]; found 0.6"),
        ({"samples": 1}, "at least 2 samples"),
        ({"generations": 0}, "1 generation"),
        ({"shared": 1.5}, r"shared must lie in \[0, 1\]"),
        ({"alpha": 0.0}, "alpha inside"),
        ({"against": "run"}, "did you mean 'runs'"),
        ({"run": "somewhere", "components": COMPONENTS}, "not both"),
        ({"run": "somewhere"}, "somewhere: is not a leakmech run"),
    ],
)
def test_a_design_that_makes_no_sense_is_refused(change, message):
    arguments = {"effect": 0.1, "samples": 10, "generations": 10} | change
    with pytest.raises(UsageError, match=message):
        leakmech.power(arguments.pop("effect"), **arguments)


def test_the_command_prints_the_answer():
    shown = CliRunner().invoke(app, ["power", "--effect", "0.05", "--samples", "60", "--shared", "1"])
    assert shown.exit_code == 0, shown.output
    assert "Power for a difference of two runs of 0.05" in shown.output
    assert "share 100% of the variance" in " ".join(shown.output.split())
