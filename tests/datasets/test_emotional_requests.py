"""Requests for emotional text: the 30 that ship, and errors that name file, line and field."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from leakmech.core.errors import DatasetError
from leakmech.datasets.emotional_requests import load_emotional_requests

GOOD = {"id": "a", "theme": "love", "polarity": "positive", "request": "Write a love letter."}


def test_thirty_different_requests_half_of_them_negative():
    requests = load_emotional_requests()
    assert Counter(request.polarity for request in requests) == {"positive": 15, "negative": 15}
    assert len({request.request.lower() for request in requests}) == 30
    assert len({request.theme for request in requests}) == 30


def test_no_two_words_open_more_than_five_requests():
    openings = Counter(" ".join(request.request.split()[:2]).lower() for request in load_emotional_requests())
    assert openings.most_common(1)[0][1] <= 5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD, "field 'id': 'a' is already used in line 1"),
        (GOOD | {"id": "b", "polarity": "negativ"}, "field 'polarity': unknown 'negativ'; did you mean 'negative'"),
        (GOOD | {"id": "b", "request": None}, "field 'request' must be a non-empty text, found None"),
        (GOOD | {"id": "b", "stem": "x"}, "unknown field 'stem'"),
    ],
)
def test_a_malformed_request_is_named(tmp_path, line, message):
    file = tmp_path / "r.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{json.dumps(line)}\n")
    with pytest.raises(DatasetError, match=r"r\.jsonl:2: .*" + message):
        load_emotional_requests(file)
