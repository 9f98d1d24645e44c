"""Which answers a model could have given without the injection."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from leakmech.datasets.samples import CONDITIONS
from leakmech.scoring.on_task import FEWEST_CONTROLS, control_quantile, is_on_task, on_task_statistics
from leakmech.scoring.records import control_likelihoods, with_on_task


def likelihoods(*, n=20, k=5, positive=-2.0, negative=-2.0):
    """Control answers from -1 to -3 nats a token in equal steps, and the same number everywhere else."""
    control = np.linspace(-1.0, -3.0, n * k).reshape(n, k)
    return {"control": control} | {
        name: np.full((n, k), value)
        for name, value in (("positive", positive), ("neutral", -1.0), ("negative", negative))
    }


def test_the_quantile_is_the_one_below_which_five_percent_of_control_answers_lie():
    control = np.arange(-100.0, 1.0)  # 101 answers: five lie below -95
    assert control_quantile(control) == -95.0
    assert is_on_task(control, control_quantile(control)).mean() == 96 / 101  # the quantile itself is not below it
    assert control_quantile(np.append(control, [np.nan] * 50)) == -95.0


def test_rates_are_shares_of_scored_answers():
    log_p = likelihoods(negative=-4.0)
    log_p["positive"][:, 0] = -4.0  # one of five
    log_p["positive"][:, 1:3] = np.nan  # two of five are empty
    log_p["neutral"][:] = np.nan
    found = on_task_statistics(log_p, again=None, seed=0, draws=200)
    assert found["on_task"]["quantile"] == pytest.approx(-3 + 0.05 * 2)
    assert found["on_task_rates"] == {"control": 0.95, "positive": pytest.approx(2 / 3), "neutral": None, "negative": 0}
    assert found["on_task_rate"] == pytest.approx(40 / 160)  # pooled over the scored answers of both polarities
    assert found["on_task_rate_ci"] is None or found["on_task_rate_ci"][0] <= 0.25 <= found["on_task_rate_ci"][1]
    assert (found["on_task"]["control_again_rate"], found["on_task"]["control_again_rate_ci"]) == (None, None)


def test_control_that_was_sampled_again_keeps_the_five_percent_honest():
    generator = np.random.default_rng(0)
    log_p = {name: generator.normal(-2, 1, size=(200, 10)) for name in CONDITIONS}
    again = generator.normal(-2, 1, size=(200, 10))
    found = on_task_statistics(log_p, again=again, seed=0, draws=300)
    low, high = found["on_task"]["control_again_rate_ci"]
    assert low < 0.95 < high
    assert found["on_task_rate"] == pytest.approx(0.95, abs=0.01)
    worse = on_task_statistics(log_p, again=again - 1.0, seed=0, draws=300)["on_task"]["control_again_rate"]
    assert worse < 0.8


def test_too_few_control_answers_tell_nothing_and_say_so():
    log_p = likelihoods(n=FEWEST_CONTROLS, k=1)
    assert "quantile" in on_task_statistics(log_p, again=None, seed=0, draws=100)["on_task"]
    log_p["control"][0] = np.nan
    reason = "19 control answers were scored; their 5 % quantile needs 20"
    assert on_task_statistics(log_p, again=None, seed=0, draws=100) == {"on_task": {"reason": reason}}


def table(conditions):
    rows = [(f"s/{condition}", number, condition, False) for condition, n in conditions.items() for number in range(n)]
    return pd.DataFrame(rows, columns=["prompt_id", "generation", "condition", "resampled"])


def test_the_table_says_of_every_answer_whether_it_is_on_task_and_nothing_of_empty_ones():
    frame = table({"control": 21, "positive": 3})
    log_p = {("s/control", i): -float(i) for i in range(21)} | {("s/positive", 0): -19.0, ("s/positive", 1): -19.5}
    found = with_on_task(frame, log_p)
    assert found["on_task"].tolist()[:21] == [True] * 20 + [False]  # the quantile of 0, -1 … -20 is -19
    assert found["on_task"].tolist()[21:] == [True, False, pd.NA]
    assert np.isnan(found["log_p_control"].iloc[-1])
    known = {key: value for key, value in control_likelihoods(found).items() if value == value}
    assert known == log_p


def test_the_second_control_set_does_not_make_the_quantile():
    frame = table({"control": 40})
    frame["resampled"] = frame["generation"] >= 20
    log_p = {("s/control", i): -1.0 if i < 20 else -9.0 for i in range(40)}
    assert with_on_task(frame, log_p)["on_task"].tolist() == [True] * 20 + [False] * 20
