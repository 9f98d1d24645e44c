"""The budget of layers: minima, proportion, caps and largest remainders; sizes by share; collapse of replies."""

from __future__ import annotations

import numpy as np
import pytest

from leakmech.core.errors import UsageError
from leakmech.studies.emotion_circuits.assembly import HEADS, NEURONS, layer_budget
from leakmech.studies.emotion_circuits.collapse import collapse


def test_sizes_of_the_original_come_back_for_its_model():
    assert HEADS.sizes(28, 24) == (168, 2)
    assert NEURONS.sizes(28, 8192) == (392, 4)
    assert HEADS.sizes(30, 9) == (68, 1)  # the embedded model
    assert NEURONS.sizes(30, 1536) == (79, 1)
    assert NEURONS.sizes(3, 64) == (1, 0)  # a tiny one


def test_the_rest_is_shared_in_proportion_by_largest_remainders():
    # 16 units, one each for four layers, 12 left: 12 * (1, 2, 4, 0) / 7 = 1.71, 3.43, 6.86, 0
    assert layer_budget([1, 2, 4, -3], total=16, least=1, per_layer=100) == [3, 4, 8, 1]


def test_caps_hold_and_what_is_over_goes_to_others():
    found = layer_budget([100, 1, 1, -5], total=13, least=1, per_layer=10)
    assert sum(found) == 13
    assert found[0] == 4  # .4 of ten
    assert max(found) <= 4
    assert min(found) >= 1
    assert layer_budget([5, 0, 0], total=12, least=0, per_layer=10) == [4, 4, 4]


def test_without_influence_all_layers_count_alike():
    assert layer_budget([-1, -2, 0], total=7, least=1, per_layer=50) == [3, 2, 2]


@pytest.mark.parametrize("seed", range(20))
def test_every_budget_is_whole_and_within_its_bounds(seed):
    generator = np.random.default_rng(seed)
    n, per_layer = int(generator.integers(2, 40)), int(generator.integers(5, 60))
    least = int(generator.integers(0, 2))
    most = max(int(0.4 * per_layer), least)
    total = int(generator.integers(least * n, most * n + 1))
    found = layer_budget(generator.standard_normal(n).tolist(), total=total, least=least, per_layer=per_layer)
    assert sum(found) == total
    assert all(least <= own <= most for own in found)


def test_what_cannot_be_placed_is_refused():
    with pytest.raises(UsageError, match="13 units do not fit into 3 layers with 0 to 4 of each"):
        layer_budget([1, 1, 1], total=13, least=0, per_layer=10)
    with pytest.raises(UsageError, match="2 units do not fit"):
        layer_budget([1, 1, 1], total=2, least=1, per_layer=10)


def test_collapse_is_the_share_of_the_modal_opening_and_of_different_pairs():
    found = collapse(["I am so sorry for you.", "I am SO, sorry!", "What a day.", ""])
    assert (found.opening, found.modal_share) == ("i am so", 0.5)
    assert found.distinct_2 == pytest.approx(7 / 10)  # five and three pairs of which three are there twice, and two
    same = collapse(["We are glad."] * 4)
    assert (same.modal_share, same.distinct_2) == (1, 2 / 8)
    assert collapse([]).modal_share == 0
