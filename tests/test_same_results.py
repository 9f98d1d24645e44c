"""What the code computes is what it computed at commit 6a4b13b; `fixtures/results.py` says what that is."""

from __future__ import annotations

import pytest
from fixtures.results import PARTS, SLOW, TOLERANCE, compute, differences, stored

SHOWN = 10


@pytest.mark.parametrize("part", [name for name in PARTS if name not in SLOW])
def test_results_are_what_they_were(part):
    found = list(differences(compute([part])[part], stored(part), tolerance=TOLERANCE))
    if part in ("benchmark", "statistics"):  # later versions tell more
        found = [difference for difference in found if not difference.endswith(": is new")]
    assert found[:SHOWN] == []


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("part", sorted(SLOW))
def test_results_of_the_embedded_model_are_what_they_were(part):
    assert list(differences(compute([part])[part], stored(part), tolerance=TOLERANCE))[:SHOWN] == []


def test_stored_generations_end_in_every_way_and_differ():
    """The fixtures would not show a change that they have no case for."""
    found = stored("generations")
    reasons = {generation[2] for own in found.values() for kind in own.values() for generation in kind.values()}
    assert reasons == {"stop", "sentence", "length"}
    for own in found.values():
        assert own["edited"] != own["sampled"] != own["contrasted"]
    stopped = [{generation[2] for generation in own["stopped"].values()} for own in found.values()]
    assert sum("sentence" in reasons for reasons in stopped) == 5  # of six architectures


def test_a_difference_is_found_and_rounding_is_not():
    assert list(differences({"a": [1.0, "x"]}, {"a": [1.00001, "x"]}, tolerance=TOLERANCE)) == []
    assert list(differences({"a": [1.0, 2]}, {"a": [1.0, 3]}, tolerance=TOLERANCE)) == ["/a/1: 2 instead of 3"]
    assert list(differences({"a": 1.0}, {"a": 1.001}, tolerance=TOLERANCE)) == ["/a: 1.0 instead of 1.001"]
    assert list(differences({"a": 1, "c": 0}, {"a": True, "b": 0})) == [
        "/a: 1 instead of True", "/b: is missing", "/c: is new",
    ]  # fmt: skip
    assert list(differences([1], [1, 2])) == [": has 1 entries instead of 2"]
