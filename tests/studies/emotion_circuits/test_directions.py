"""Each formula on hand-made arrays: directions, neutral components, cross-theme generalisation and its null."""

from __future__ import annotations

import numpy as np
import pytest

from leakmech.core.errors import DirectionError
from leakmech.datasets.emotions import EMOTIONS
from leakmech.studies.emotion_circuits.directions import (
    commanded_directions,
    cosines,
    cross_theme,
    cross_wording,
    first_component_valence,
    neutral_components,
    without,
)

THEMES = ["work"] * 5 + ["health"] * 5 + ["travel"] * 5


def planted(*, noise=0.1, strength=1.0, d=24):
    """Activations: the event's own part, a part of each emotion, noise."""
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.standard_normal((d, d)))[0]
    emotions = strength * axes[:6]
    events = 3 * generator.standard_normal((15, 1, d)) @ (np.eye(d) - axes[:6].T @ axes[:6])
    return events + emotions + noise * generator.standard_normal((15, 6, d)), axes


def test_directions_are_the_stated_formula_on_two_groups():
    h = np.zeros((2, 6, 7))
    for place in range(6):
        h[:, place, place] = 6
    h[0] += 5  # an event of its own adds nothing
    found = commanded_directions(h)
    expected = 6 * np.eye(6, 7) - np.array([1.0] * 6 + [0.0])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-12)


def test_planted_emotions_are_found_whatever_the_event():
    h, axes = planted()
    own = axes[:6] - axes[:6].mean(axis=0)
    assert np.diag(cosines(commanded_directions(h), own)).min() > 0.95


def test_a_theme_that_was_left_out_is_read_and_exchanged_labels_are_not():
    found = cross_theme(planted()[0], THEMES, draws=20)
    assert found.by_theme == {"work": 1, "health": 1, "travel": 1}
    assert found.by_emotion == dict.fromkeys(EMOTIONS, 1)
    assert found.overall == 1
    assert found.p == pytest.approx(1 / 21)
    assert abs(np.mean(found.null) - 1 / 6) < 0.12


def test_a_direction_of_the_word_alone_does_not_hold_for_another_wording():
    h, axes = planted()
    words = h + 3 * axes[6:12]  # what the word adds, beside the emotion
    other = h - h.mean(axis=1, keepdims=True)
    assert min(cross_wording(commanded_directions(words), other).values()) > 0.8  # the emotion is in both
    generator = np.random.default_rng(3)
    only_words = 3 * axes[6:12] + generator.standard_normal((15, 6, 24))
    assert (
        np.mean(list(cross_wording(commanded_directions(only_words), planted(strength=0, noise=1)[0]).values())) < 0.4
    )


def test_without_an_effect_the_null_is_not_beaten():
    h, _ = planted(strength=0.0, noise=1.0)
    values = cross_theme(h, THEMES, draws=40)
    assert values.p > 0.05
    assert values.overall < 0.45


def test_neutral_components_hold_the_share_and_are_projected_out():
    generator = np.random.default_rng(1)
    neutral = generator.standard_normal((200, 6)) * np.array([5, 3, 1, 0.1, 0.1, 0.1])
    found = neutral_components(neutral, share=0.5)
    assert found.shape == (1, 6)
    assert abs(found[0, 0]) > 0.99
    assert neutral_components(neutral, share=0.8).shape == (2, 6)
    vectors = np.vstack([np.eye(6)[1:], np.ones(6)])
    left = without(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), found)
    np.testing.assert_allclose(left @ found.T, 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(left, axis=1), 1)


def test_the_first_component_is_held_against_valence():
    vectors = np.zeros((6, 4))
    vectors[:, 0] = [-1, -1, 1, -1, 0, -1]
    vectors[:, 1] = 0.01 * np.arange(6)
    assert first_component_valence(vectors) > 0.99
    vectors[:, 0] = [1, -1, 0, 1, 0, -1]
    assert first_component_valence(vectors) < 0.3


def test_what_gives_no_direction_is_refused():
    h = planted()[0]
    still = np.repeat(h[:, :1], 6, axis=1)
    with pytest.raises(DirectionError, match="the command of anger changes nothing"):
        commanded_directions(still)
    with pytest.raises(DirectionError, match="no group with a reply in each emotion"):
        commanded_directions(h[:0])
    with pytest.raises(DirectionError, match="1 theme; to leave one out takes two or more"):
        cross_theme(h, ["work"] * 15)
    with pytest.raises(DirectionError, match="between 0 and 1, found 1"):
        neutral_components(h[:, 0], share=1)
    with pytest.raises(DirectionError, match="nothing is left"):
        without(np.eye(6), np.eye(6)[:2])
