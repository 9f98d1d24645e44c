"""Circuit curves: end points that must hold exactly, areas, overlaps."""

from __future__ import annotations

import numpy as np
import pytest
from mechanism_samples import SAMPLES, direction

from leakmech.core.errors import ConfigError
from leakmech.mechanism.attribution.faithfulness import CircuitCurves, circuit_curves, random_rankings, rank_overlap
from leakmech.mechanism.attribution.gradients import parse_target
from leakmech.mechanism.attribution.pairs import make_pairs
from leakmech.models.layout import layout_of
from leakmech.prompts.render import Renderer


def test_all_heads_carry_everything_and_order_does_not_matter_at_the_ends(tiny_loaded):
    """With every head of the shared tokens corrupt the clean run is the corrupt one: nothing else tells them apart."""
    layout = layout_of(tiny_loaded.model)
    rankings = random_rankings((layout.n_layers, layout.n_heads), n=2, seed=1)
    pairs = make_pairs(SAMPLES, Renderer(tiny_loaded.tokenizer), equalised=layout.architecture == "gpt2")
    curves = circuit_curves(
        tiny_loaded, pairs, parse_target(direction(tiny_loaded), tiny_loaded), rankings, sizes=[1, 5, 12]
    )
    assert curves.corrupt_share == pytest.approx(0, abs=1e-3)
    for name in rankings:
        assert curves.faithfulness(name)[-1] == pytest.approx(1, abs=1e-5)
        assert curves.faithfulness(name, "remove")[-1] == pytest.approx(0, abs=1e-3)


def test_keeping_some_is_removing_the_others(tiny_loaded):
    layout = layout_of(tiny_loaded.model)
    ranking = random_rankings((layout.n_layers, layout.n_heads), n=1, seed=1)["random-0"]
    pairs = make_pairs(SAMPLES, Renderer(tiny_loaded.tokenizer))
    curves = circuit_curves(
        tiny_loaded, pairs, parse_target(direction(tiny_loaded), tiny_loaded),
        {"up": ranking, "down": 1 - ranking}, sizes=[5, 7],
    )  # fmt: skip
    assert curves.faithfulness("up")[0] == pytest.approx(curves.faithfulness("down", "remove")[1], abs=1e-4)


def test_neurons_are_a_universe_too(tiny_loaded):
    layout = layout_of(tiny_loaded.model)
    ranking = random_rankings((layout.n_layers, layout.d_mlp), n=1, seed=1)
    pairs = make_pairs(SAMPLES, Renderer(tiny_loaded.tokenizer))
    curves = circuit_curves(
        tiny_loaded, pairs, parse_target(direction(tiny_loaded), tiny_loaded), ranking, universe="neurons",
        keep_only=["random-0"],
    )  # fmt: skip
    assert curves.faithfulness("random-0")[-1] == pytest.approx(1, abs=1e-5)
    assert set(curves.values) == {("random-0", "keep")}
    frame = curves.to_frame(draws=200)
    assert list(frame["size"]) == list(curves.sizes)
    assert frame["fraction"].iloc[-1] == 1


def test_areas_of_a_curve_that_rises_in_a_line():
    curves = CircuitCurves(
        universe="heads", target="direction", sizes=(5, 10), n_components=10,
        values={("line", "keep"): np.array([[1.0, 2.0], [0.0, 0.0]]), ("step", "keep"): np.array([[2.0, 2.0], [0, 0]])},
        spans=np.array([2.0, 0.0]), corrupt_share=0.0,
    )  # fmt: skip
    assert curves.cpr("line") == pytest.approx(0.5)
    assert curves.cmd("line") == pytest.approx(0.5)
    assert curves.cpr("step") == pytest.approx(0.75)
    assert curves.cmd("step") == pytest.approx(0.25)


def test_overlap_of_rankings_and_its_chance_level():
    scores = np.arange(20.0).reshape(4, 5)
    assert rank_overlap(scores, scores, top=5) == (1.0, 0.25)
    assert rank_overlap(scores, -scores, top=5)[0] == 1.0  # size counts, not sign
    assert rank_overlap(scores, 20 - scores, top=5)[0] == 0.0


def test_unknown_universe_and_sizes_are_refused(tiny_loaded):
    pairs = make_pairs(SAMPLES, Renderer(tiny_loaded.tokenizer))
    target = parse_target(direction(tiny_loaded), tiny_loaded)
    ranking = {"r": np.ones((3, 4))}
    with pytest.raises(ConfigError, match="heads or neurons"):
        circuit_curves(tiny_loaded, pairs, target, ranking, universe="layers")
    with pytest.raises(ConfigError, match="from 1 to 12"):
        circuit_curves(tiny_loaded, pairs, target, ranking, sizes=[13])


def test_a_span_has_an_interval_that_says_whether_shares_of_it_mean_anything():
    def curves(*spans):
        return CircuitCurves(
            universe="neurons", target="tilt", sizes=(10,), n_components=10, values={}, spans=np.array(spans),
            corrupt_share=0.0,
        )  # fmt: skip

    value, interval = curves(1.0, 1.5, 2.0, 1.5).span(draws=500)
    assert value == 1.5
    assert 1 <= interval.low < 1.5 < interval.high <= 2
    value, interval = curves(3.0, -2.0, 1.5, -2.0, -0.4).span(draws=500)
    assert value == pytest.approx(0.02)
    assert interval.low < 0 < interval.high
