"""SEV: 8 themes of scenarios with three events, no feeling named, splits by scenario; a user's file of that form."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from leakmech.core.errors import DatasetError
from leakmech.datasets.emotions import EMOTIONS, emotion_words
from leakmech.datasets.sev import VALENCES, load_scenarios

THEMES = ("work", "school", "relationships", "shopping", "public services", "health", "housing", "travel")
GOOD = {
    "id": "a", "theme": "work", "scenario": "I wait for the bus.", "positive": "It brings my brother home.",
    "neutral": "It comes at nine.", "negative": "It runs over my dog.",
}  # fmt: skip


def written(tmp_path, *rows):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_set_has_the_sizes_of_the_original():
    sev, test = load_scenarios("sev"), load_scenarios("sev-test")
    assert sev.themes == test.themes == THEMES
    assert Counter((own.theme, own.split) for own in sev) == {
        (theme, split): n for theme in THEMES for split, n in (("fit", 14), ("tune", 6))
    }
    assert Counter(own.theme for own in test) == dict.fromkeys(THEMES, 5)
    assert len(sev.split("fit")) == 112


def test_no_text_is_there_twice_in_either_set():
    texts = [
        text
        for name in ("sev", "sev-test")
        for own in load_scenarios(name)
        for text in (own.scenario, *(getattr(own, valence) for valence in VALENCES))
    ]
    assert len(texts) == 4 * 200
    assert [text for text, n in Counter(texts).items() if n > 1] == []


def test_every_text_is_whole_sentences_of_a_fair_length():
    for own in (*load_scenarios("sev"), *load_scenarios("sev-test")):
        for text in (own.scenario, *(getattr(own, valence) for valence in VALENCES)):
            assert text[0].isupper(), text
            assert text.endswith("."), text
            assert 6 <= len(text.split()) <= 22, text


def test_scenarios_come_at_even_distances():
    sev = load_scenarios("sev")
    assert [own.id for own in sev.spread(4)] == [f"sev-{theme}-01" for theme in ("work", "relationships",
                                                                            "public-services", "housing")]  # fmt: skip
    assert len(sev.spread(1000)) == 160
    assert sev.scenarios[0].text("neutral").startswith(sev.scenarios[0].scenario + " The director asks me")


def test_a_file_of_the_form_is_read_and_its_hash_is_of_its_texts(tmp_path):
    one, other = load_scenarios(written(tmp_path, GOOD)), load_scenarios(written(tmp_path, GOOD | {"split": "fit"}))
    assert one.content_hash == other.content_hash
    assert one.content_hash != load_scenarios(written(tmp_path, GOOD | {"neutral": "It comes at ten."})).content_hash


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {**GOOD, "negative": "It makes me furious."},
            r"mine.jsonl:2: field 'negative': names a feeling \('furious', an",
        ),
        (
            {**GOOD, "scenario": "I am scared of it."},
            r"mine.jsonl:2: field 'scenario': names a feeling \('scared', fear",
        ),
        ({k: v for k, v in GOOD.items() if k != "neutral"}, "mine.jsonl:2: field 'neutral'"),
        ({**GOOD, "mood": "x"}, "mine.jsonl:2: unknown field 'mood'"),
        (GOOD, "field 'id': 'a' is already used in line 1"),
    ],
)
@pytest.mark.fault(
    "X600", "rows", "scenarios with a feeling that is named, without an event, with one twice", "the line"
)
def test_what_cannot_be_used_is_refused_with_its_line(tmp_path, row, message):
    first = GOOD if "already" in message else GOOD | {"id": "first", "scenario": "I wait."}
    row = row if "already" in message else row | {"id": "b"}
    with pytest.raises(DatasetError, match=message):
        load_scenarios(written(tmp_path, first, row))


def test_an_event_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"mine.jsonl:2: field 'positive': is the same event as in line 1"):
        load_scenarios(written(tmp_path, GOOD, GOOD | {"id": "b"}))
    with pytest.raises(DatasetError, match="no such file or built-in set; did you mean 'sev-test'"):
        load_scenarios("sev-tset")


def test_words_of_emotions_are_found_by_their_beginnings():
    assert emotion_words("He was FURIOUS, and so disgusted!", "names") == [
        ("furious", "anger"),
        ("disgusted", "disgust"),
    ]
    assert emotion_words("What a lovely stench", "names") == []
    assert emotion_words("What a lovely stench") == [("lovely", "happiness"), ("stench", "disgust")]
    assert emotion_words("The rager of Sadlers Wells is madly gladiatorial", "names") == []
    assert len(EMOTIONS) == 6
