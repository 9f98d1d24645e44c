"""Personas: 110 in the kinds and shares of the original, length-controlled; choices of them; a user's file."""

from __future__ import annotations

import json
import statistics
from collections import Counter

import pytest

from leakmech.core.errors import ConfigError, DatasetError
from leakmech.core.text import normalised_words
from leakmech.datasets.overlap import overlap
from leakmech.datasets.personas import KINDS, load_personas

GOOD = {"id": "baker", "kind": "original", "name": "Baker", "prompt": "You are a baker."}
SOURCES = ("villain", "comedian", "assistant", "software-engineer", "kindergarten-teacher")
NUMBERS = (15, 15, 10, 10, 10, 10, 5, 5, 10, 10, 10)


def written(tmp_path, *rows):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class TestTheSet:
    def test_kinds_have_the_shares_of_the_original(self):
        personas = load_personas()
        assert {kind: len(own) for kind, own in personas.by_kind.items()} == dict(zip(KINDS, NUMBERS, strict=True))
        assert len(personas) == len(set(personas.ids)) == len({own.name for own in personas}) == 110

    def test_the_sources_are_among_the_ten_originals_and_the_default_is_not_there(self):
        personas = load_personas()
        assert set(SOURCES) < {own.id for own in personas.by_kind["original"]}
        assert "model_default" not in personas.ids

    @pytest.mark.parametrize("kind", KINDS)
    def test_lengths_are_controlled_within_a_kind(self, kind):
        lengths = [own.n_words for own in load_personas().by_kind[kind]]
        assert 22 <= statistics.mean(lengths) <= 26
        assert statistics.stdev(lengths) <= 3
        assert 18 <= min(lengths) <= max(lengths) <= 30

    def test_every_prompt_is_two_sentences_in_the_second_person(self):
        for own in load_personas():
            assert own.prompt.startswith("You are "), own.id
            assert own.prompt.endswith("."), own.id
            assert own.prompt.count(".") == 2, own.id
            assert own.prompt.isprintable(), own.id

    def test_no_two_prompts_share_most_of_their_words(self):
        personas = list(load_personas())
        near = [
            (one.id, other.id)
            for place, one in enumerate(personas)
            for other in personas[:place]
            if one.kind != "tone" and overlap(one.prompt, other.prompt) > 0.4
        ]
        assert near == []

    def test_a_modified_source_says_which_source_it_is(self):
        words = ("villain", "comedian", "kindergarten", "engineer", "assistant")
        modified = load_personas().by_kind["modified_source"]
        named = [word for own in modified for word in words if word in normalised_words(own.prompt)]
        assert Counter(named) == dict.fromkeys(words, 3)


class TestChoices:
    def test_of_keeps_the_order_asked_for(self):
        chosen = load_personas().of(["villain", "nurse"])
        assert chosen.ids == ("villain", "nurse")
        assert chosen.name == "personas"

    def test_an_unknown_persona_is_named_with_the_nearest(self):
        with pytest.raises(
            ConfigError, match=r"persona 'vilain': no such persona in 'personas'; did you mean 'villain'"
        ):
            load_personas().of(["nurse", "vilain"])
        with pytest.raises(ConfigError, match="did you mean 'software-engineer'"):
            load_personas().without(["software_engineer"])
        with pytest.raises(ConfigError, match="persona 'nurse': is named twice"):
            load_personas().of(["nurse", "villain", "nurse"])

    def test_without_leaves_out_what_is_named_and_nothing_else(self):
        personas = load_personas()
        rest = personas.without(["villain", "nurse", "villain"])
        assert len(rest) == 108
        assert set(personas.ids) - set(rest.ids) == {"villain", "nurse"}

    def test_spread_has_every_kind_then_kinds_by_size(self):
        personas = load_personas()
        assert set(Counter(own.kind for own in personas.spread(11)).values()) == {1}
        numbers = [len(own) for own in personas.spread(22).by_kind.values()]
        assert numbers == [3, 3, 2, 2, 2, 2, 1, 1, 2, 2, 2]
        assert [len(personas.spread(n)) for n in (0, 1, 7, 20, 109, 110, 500)] == [0, 1, 7, 20, 109, 110, 110]

    def test_a_few_are_of_different_kinds_at_even_distances(self):
        few = load_personas().spread(5)
        assert [own.kind for own in few] == [KINDS[place] for place in (0, 2, 4, 6, 8)]

    @pytest.mark.parametrize("number", [3, 10, 20, 57])
    def test_spread_is_in_order_and_depends_on_nothing_else(self, number):
        personas = load_personas()
        chosen = personas.spread(number)
        assert chosen == load_personas().spread(number)
        assert list(chosen.ids) == [own for own in personas.ids if own in set(chosen.ids)]


class TestFiles:
    def test_a_file_of_the_form_is_read_and_its_hash_is_of_ids_kinds_and_prompts(self, tmp_path):
        one = load_personas(written(tmp_path, GOOD))
        assert one.name == "mine"
        hashes = [
            load_personas(written(tmp_path, GOOD | change)).content_hash
            for change in ({"name": "x"}, {"prompt": "You bake."}, {"kind": "tone"}, {"id": "cook"})
        ]
        assert one.content_hash == hashes[0]
        assert len({one.content_hash, *hashes[1:]}) == 4

    @pytest.mark.fault("X611", "rows", "personas of an unknown kind, with an odd id, a prompt twice", "the line")
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (GOOD, "field 'id': 'baker' is already used in line 1"),
            (GOOD | {"id": "b", "prompt": "you are a BAKER"}, "field 'prompt': is the same prompt as in line 1"),
            (
                GOOD | {"id": "b", "kind": "orignal"},
                "field 'kind' is not a kind of persona: 'orignal'; did you mean 'ori",
            ),
            (GOOD | {"id": "Big Baker"}, "field 'id' must be small letters, digits and single hyphens"),
            (GOOD | {"id": "model_default"}, "field 'id' must be small letters, digits and single hyphens"),
            (GOOD | {"id": "b", "prompt": " "}, "field 'prompt' must be a non-empty text"),
            (GOOD | {"id": "b", "mood": "x"}, "unknown field 'mood'"),
            ({k: v for k, v in GOOD.items() if k != "kind"}, "field 'kind' is missing"),
        ],
    )
    def test_what_cannot_be_used_is_refused_with_its_line(self, tmp_path, row, message):
        with pytest.raises(DatasetError, match=r"mine\.jsonl:2: " + message):
            load_personas(written(tmp_path, GOOD, row))

    def test_a_file_that_is_not_there_is_named(self):
        with pytest.raises(
            DatasetError, match="personas 'persona': no such file or built-in set; did you mean 'personas'"
        ):
            load_personas("persona")
