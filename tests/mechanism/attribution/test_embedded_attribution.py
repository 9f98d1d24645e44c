"""What diagnosis says of the real model: on HEXL alone, whose first samples fit what its last ones test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.mechanism.attribution.faithfulness import circuit_curves, random_rankings
from leakmech.mechanism.attribution.gradients import attribute_pairs, parse_target
from leakmech.mechanism.attribution.pairs import make_pairs
from leakmech.mechanism.attribution.patching import patch_heads
from leakmech.mechanism.sentiment import sentiment_directions
from leakmech.models.layout import layout_of
from leakmech.prompts.render import Renderer

pytestmark = [pytest.mark.slow, pytest.mark.long]


def part(name: str, start: int, stop: int) -> PromptSet:
    return PromptSet(name, load_dataset("hexl").samples[start:stop])


@pytest.fixture(scope="module")
def fitted(embedded_model):
    return sentiment_directions(
        embedded_model,
        fit=part("fit", 0, 20),
        tune=part("tune", 20, 30),
        test=part("test", 30, 50),
        layers=[20, 25, 29],
        methods=["difference_of_means"],
    )


def pairs_of(loaded, samples, **options):
    return make_pairs(samples, Renderer(loaded.tokenizer), **options)


def test_direction_separates_held_out_injections(fitted):
    assert fitted.table.chosen.test.d_z > 1
    assert fitted.table.chosen.test.auc > max(0.65, fitted.table.chosen.random.auc_p95)


def test_attribution_patching_ranks_all_heads_as_exact_patching_does(embedded_model, fitted):
    target = parse_target(fitted.chosen, embedded_model)
    pairs = pairs_of(embedded_model, part("exact", 59, 60), contrasts={("positive", "negative"): 1.0})
    exact = patch_heads(embedded_model, pairs, target).grid()
    fast = attribute_pairs(embedded_model, pairs, target).head_scores()
    assert exact.shape == (30, 9)
    assert stats.spearmanr(fast.ravel(), exact.ravel()).statistic >= 0.85


def test_first_heads_keep_more_of_the_effect_than_random_ones(embedded_model, fitted):
    target = parse_target(fitted.chosen, embedded_model)
    ranking = attribute_pairs(embedded_model, pairs_of(embedded_model, part("tune", 20, 26)), target).head_scores()
    layout = layout_of(embedded_model.model)
    random = random_rankings((layout.n_layers, layout.n_heads), n=4, seed=0)
    curves = circuit_curves(
        embedded_model, pairs_of(embedded_model, part("test", 50, 56)), target, {"top": ranking, **random}, sizes=[20]
    )
    for mode, sign in (("keep", 1), ("remove", -1)):
        kept = [float(curves.faithfulness(name, mode)[0]) for name in random]
        assert sign * (float(curves.faithfulness("top", mode)[0]) - np.mean(kept)) > 0.15
