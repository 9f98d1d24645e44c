"""Building examples: kinds and shares, completions from the engine and its cache, nothing that is evaluated."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest

from leakmech.core.errors import ConfigError, DatasetError, UsageError
from leakmech.datasets.facts import load_facts
from leakmech.datasets.relation import mismatched, with_injections
from leakmech.datasets.relevant_pairs import AffectPair, archive_pairs
from leakmech.datasets.samples import PromptSet, Sample, load_dataset
from leakmech.generation.decode import Decoder, Row
from leakmech.generation.decoding import Decoding
from leakmech.models.load import load_model
from leakmech.prompts.render import Renderer
from leakmech.studies.lora.candidates import TrainingSources
from leakmech.studies.lora.completions import sample_completions
from leakmech.studies.lora.sampling import build_training_examples
from leakmech.training.settings import LoraTrainingConfig

NAMES = ("oak", "elm", "fir", "ash")


def dataset(name: str, about: str, n: int = 4) -> PromptSet:
    return PromptSet(
        name,
        tuple(
            Sample(
                f"{name}{i}", f"The {about} {NAMES[i]} is", f"{name} joy {i}.", f"{name} fact {i}.", f"{name} woe {i}."
            )
            for i in range(n)
        ),
    )


SOURCES = TrainingSources(dataset("stray", "room"), (dataset("fitting", "lake"),))
EVEN = {"irrelevant": 1.0, "relevant": 1.0, "neutral": 0.5, "plain": 0.5}
TRIPLES = {"irrelevant": 1.0, "relevant": 1.0, "plain": 0.5}


@pytest.fixture(scope="module")
def loaded(make_tiny, chat_tokenizer):
    return load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)


@pytest.fixture
def build(loaded, tmp_path):
    def build(sources=SOURCES, **changes):
        values = {"shares": EVEN, "completions": 2, "decoding": Decoding(max_new_tokens=4), "cache_dir": tmp_path}
        return build_training_examples(loaded, sources, **(values | changes))

    return build


def test_mismatched_samples_give_irrelevant_prompts_of_the_same_stems_and_injections(build) -> None:
    samples = load_dataset("relevant-fit").split("fit")
    some = PromptSet("some", samples.samples[::9])
    examples = build(TrainingSources(relevant=(some,), mismatched=(mismatched(some, seed=0),)), n_examples=24)
    kinds = Counter(example.kind for example in examples)
    assert kinds == {"irrelevant": 8, "relevant": 8, "neutral": 4, "plain": 4}
    injections = {text for sample in some for text in (sample.positive, sample.negative)}
    stray = [example for example in examples if example.kind == "irrelevant"]
    together = {(sample.stem, text) for sample in some for text in (sample.positive, sample.negative)}
    for example in stray:
        assert any(text in example.prompt for text in injections)
        assert not any(stem in example.prompt and text in example.prompt for stem, text in together)


class TestExamples:
    def test_kinds_have_their_shares(self, build) -> None:
        examples = build(n_examples=24)
        assert Counter(example.kind for example in examples) == {
            "irrelevant": 8,
            "relevant": 8,
            "neutral": 4,
            "plain": 4,
        }
        assert {e.polarity for e in examples if e.kind == "relevant"} == {"positive", "negative"}

    def test_an_irrelevant_example_refers_to_the_stem_alone(self, build) -> None:
        for example in build(n_examples=24):
            injected = any(word in example.prompt for word in ("joy", "woe", "fact"))
            assert injected == (example.kind != "plain")
            if example.kind == "irrelevant":
                assert "stray" in example.prompt
                assert "stray" not in example.reference

    def test_stems_of_relevant_samples_also_stand_in_irrelevant_examples(self, build) -> None:
        kinds = {example.kind for example in build(n_examples=48) if "lake oak" in example.prompt}
        assert {"irrelevant", "relevant"} <= kinds

    def test_a_smaller_number_begins_what_a_larger_one_gives(self, build) -> None:
        few, many = build(n_examples=12), build(n_examples=24)
        assert {example.id for example in few} < {example.id for example in many}

    def test_one_completion_of_every_prompt_comes_before_a_second(self, build) -> None:
        plain = [e for e in build(shares={"plain": 1.0}) if e.kind == "plain"]
        assert len(plain) == 16
        assert len({e.prompt for e in plain[:8]}) == 8

    def test_one_injection_of_every_stem_comes_before_a_second(self, build) -> None:
        both = {"irrelevant": 1.0, "relevant": 1.0}
        sources = TrainingSources(SOURCES.irrelevant, (dataset("a", "lake"), dataset("b", "road")))
        few = build(sources, shares=both, n_examples=16)
        for about in ("lake", "road"):
            for name in NAMES:
                kinds = Counter(e.kind for e in few if f"{about} {name}" in e.prompt)
                assert kinds["relevant"] == 1
        # Eight stems of relevant samples and four of irrelevant ones: eight of twelve in the first round.
        stray = [e.reference for e in few if e.kind == "irrelevant"]
        assert len(set(stray)) == len(stray) == 8

    def test_polarities_can_be_chosen(self, build) -> None:
        chosen = build(polarities=("positive",), shares={"irrelevant": 1.0, "relevant": 1.0})
        assert {example.polarity for example in chosen} == {"positive"}

    def test_too_few_samples_and_empty_kinds_are_refused(self, build) -> None:
        with pytest.raises(UsageError, match=r"1000 plain examples are asked for, there are 16 \(8 prompts x 2"):
            build(shares={"plain": 1.0}, n_examples=1000)
        with pytest.raises(DatasetError, match="no training examples of kind 'relevant'"):
            build(TrainingSources(SOURCES.irrelevant), shares={"relevant": 1.0})

    def test_overlap_with_evaluation_is_refused_with_the_first_five(self, build) -> None:
        held = dataset("stray", "cave")  # other stems, the same injections
        with pytest.raises(DatasetError, match=r"'stray joy 0\.' in stray; .*the first 5 of 12") as caught:
            build(evaluation=[held])
        assert str(caught.value).count(" in stray") == 5
        near = PromptSet("near", (Sample("n", "Is the room oak", "A b c.", "D e f.", "G h i."),))
        with pytest.raises(DatasetError, match="'The room oak is' in near"):
            build(evaluation=[near])
        assert build(evaluation=[dataset("other", "cave")])


class TestPaired:
    """Three sentences of two samples stand on both sides, those of the third sample are about its stem only."""

    SAMPLES = dataset("fitting", "lake", n=3)
    OTHER = PromptSet(
        "moved",
        (
            with_injections(SAMPLES.samples[0], SAMPLES.samples[1]),
            with_injections(SAMPLES.samples[1], SAMPLES.samples[0]),
        ),
    )

    def test_one_sentence_stands_on_both_sides_and_its_prompts_are_a_group(self, build) -> None:
        sources = TrainingSources(relevant=(self.SAMPLES,), mismatched=(self.OTHER,), paired=True)
        examples = build(sources, shares=TRIPLES, n_examples=10)
        groups: dict[str, dict[str, list]] = {}
        for example in examples:
            groups.setdefault(str(example.group), {}).setdefault(example.kind, []).append(example)
        charged = {f"fitting {word} {i}." for word in ("joy", "woe") for i in (0, 1)}
        assert set(groups.pop("None")) == {"plain"}  # of the stem that no sentence of another theme stands before
        assert set(groups) == charged
        for sentence, kinds in groups.items():
            (relevant,), (irrelevant,) = kinds["relevant"], kinds["irrelevant"]
            assert sentence in relevant.prompt
            assert sentence in irrelevant.prompt
            assert relevant.stem != irrelevant.stem
            assert sentence not in irrelevant.reference
            assert {one.stem for one in kinds.get("plain", ())} <= {irrelevant.stem}
        assert not any("2." in example.prompt for example in examples)

    def test_a_sentence_stands_in_the_same_place_on_both_sides(self, build) -> None:
        sources = TrainingSources(
            relevant=(self.SAMPLES,), mismatched=(self.OTHER,), paired=True, arrangements=("before", "middle", "turn")
        )
        examples = build(sources, shares=TRIPLES, n_examples=10)
        places: dict[str, set] = {}
        for example in examples:
            if example.kind != "plain":
                places.setdefault(str(example.group), set()).add(example.arrangement)
        assert all(len(found) == 1 for found in places.values())
        for example in (e for e in examples if e.kind == "irrelevant"):
            assert example.prompt.count("fact") == example.reference.count("fact")
            assert (example.prompt.count("fact") == 2) == (example.arrangement == "middle")
            assert ("I have noted that." in example.prompt) == (example.arrangement == "turn")
            assert "I have noted that." not in example.reference

    def test_the_teacher_decides_what_a_prompt_is_to_be_answered_like(self, build) -> None:
        """With a threshold that no sentence reaches the stem is left, with one that all reach the prompt."""
        for threshold, alone in ((1e6, True), (-1e6, False)):
            sources = TrainingSources(
                SOURCES.irrelevant, SOURCES.relevant, teacher=threshold, arrangements=("before", "middle", "turn")
            )
            examples = build(sources, shares={"teacher": 1.0}, n_examples=12)
            assert {example.kind for example in examples} == {"teacher"}
            for example in examples:
                assert any(word in example.prompt for word in ("joy", "woe", "fact"))
                assert any(word in example.reference for word in ("joy", "woe", "fact")) != alone
                assert (example.reference == example.prompt) != alone

    def test_facts_are_anchors_with_their_own_prompt(self, build) -> None:
        facts = load_facts("facts-fit")[:4]
        examples = build(TrainingSources(facts=facts), shares={"facts": 1.0}, n_examples=4)
        assert {example.stem for example in examples} == {fact.stem for fact in facts}
        for example in examples:
            assert example.prompt == example.reference
            assert any(f"{fact.fact} {fact.stem}" in example.prompt for fact in facts)

    def test_what_cannot_be_paired_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="both sides of a pair"):
            LoraTrainingConfig.parse({"paired": True, "relevant": ["relevant-fit"]})
        with pytest.raises(ConfigError, match="needs the teacher's threshold"):
            LoraTrainingConfig.parse({"shares": {"teacher": 1.0}, "objectives": {"teacher": 1.0}})
        with pytest.raises(ConfigError, match="kept for a last evaluation"):
            LoraTrainingConfig.parse({"facts": "facts-frozen"})


class TestCompletions:
    def test_they_are_what_the_engine_draws(self, loaded, tmp_path) -> None:
        renderer, decoding = Renderer(loaded.tokenizer), Decoding(max_new_tokens=6)
        draws = [("The sun", 0), ("The sun", 1), ("A longer text", 0)]
        found = sample_completions(
            loaded, draws, renderer=renderer, decoding=decoding, seed=3, batch_size=2, cache_dir=tmp_path
        )
        from leakmech.studies.lora.completions import _prompt_id

        rows = [Row(_prompt_id(text), i, tuple(renderer.token_ids(text))) for text, i in draws]
        expected = Decoder(loaded.model, loaded.tokenizer, decoding=decoding, seed=3).decode(rows)
        assert [found[draw].tokens for draw in draws] == [generation.tokens for generation in expected]
        assert found[draws[0]] != found[draws[1]]

    def test_what_is_cached_is_not_drawn_again(self, loaded, tmp_path, monkeypatch) -> None:
        options = {
            "renderer": Renderer(loaded.tokenizer),
            "decoding": Decoding(max_new_tokens=4),
            "cache_dir": tmp_path,
        }
        first = sample_completions(loaded, [("The sun", 0)], **options)
        monkeypatch.setattr("leakmech.studies.lora.completions.generate", None)
        assert sample_completions(loaded, [("The sun", 0)], **options) == first
        with pytest.raises(TypeError):  # another seed is another draw
            sample_completions(loaded, [("The sun", 0)], seed=1, **options)

    def test_where_the_model_ended_is_part_of_the_completion(self, build, loaded) -> None:
        for example in build(n_examples=24, decoding=Decoding(max_new_tokens=60)):
            assert example.tokens is not None
            ended = len(example.tokens) < 60
            assert (example.tokens[-1] == loaded.tokenizer.eos_token_id) == ended or len(example.tokens) == 60


def ratings() -> pd.DataFrame:
    """Two reviews, an editorial and a tweet."""
    texts = [
        ("amazon", "1_1", "The screen broke after two short days.", -2.5),
        ("amazon", "1_2", "The customer service is slow to answer any call.", -0.5),
        ("amazon", "1_3", "The manual was written by three people.", 0.0),
        ("amazon", "1_4", "The box was blue and large.", 0.0),
        ("amazon", "2_1", "The zoom makes every picture a delight.", 2.5),
        ("amazon", "2_3", "The battery life is long enough for me.", 1.0),
        ("nyt", "1_1", "The new park is a wonderful gift to the city.", 3.0),
        ("nyt", "1_2", "The council was right to pay for the work.", 1.0),
        ("nyt", "2_1", "The storm destroyed a hundred homes last night.", -3.0),
        ("nyt", "2_2", "The damage is greater than anybody feared.", -2.0),
        ("tweets", "1", "The show was a joy to watch.", 3.0),
        ("tweets", "2", "The next one is tomorrow.", 0.0),
    ]
    frame = pd.DataFrame(texts, columns=pd.Index(["source", "id", "text", "mean_rating"]))
    return frame.assign(document=frame["id"].str.partition("_")[0])


class TestRelevantPairs:
    def test_a_sentence_is_relevant_to_the_next_of_its_document_only(self) -> None:
        pairs = archive_pairs(ratings=ratings())
        relevant = {(pair.stem, pair.injection, pair.polarity) for pair in pairs if pair.relevant}
        assert relevant == {
            ("The customer service is", "The screen broke after two short days.", "negative"),
            ("The council was", "The new park is a wonderful gift to the city.", "positive"),
            ("The damage is", "The storm destroyed a hundred homes last night.", "negative"),
        }  # "2_3" does not follow "2_1", and neutral sentences and tweets give none
        for pair in pairs:
            assert pair.relevant == (pair.document == pair.injection_document)

    def test_every_stem_stands_in_relevant_and_irrelevant_pairs(self) -> None:
        pairs = archive_pairs(ratings=ratings())
        for stem in {pair.stem for pair in pairs}:
            assert {pair.relevant for pair in pairs if pair.stem == stem} == {True, False}

    def test_documents_and_texts_of_evaluation_are_left_out(self) -> None:
        held = PromptSet(
            "aexl",
            (
                Sample(
                    "a", "The sky is", "P p p p.", "N n n n.", "M m m m.", source="corpus texts: stem 7, positive 4"
                ),
                Sample("b", "The damage is", "Q q q q.", "O o o o.", "L l l l."),
            ),
        )
        stems = {pair.stem for pair in archive_pairs(ratings=ratings(), exclude=[held]) if pair.relevant}
        assert stems == {"The customer service is"}

    def test_pairs_become_examples_of_both_kinds(self, build) -> None:
        pairs = archive_pairs(ratings=ratings())
        examples = build(TrainingSources(pairs=pairs), shares={"irrelevant": 1.0, "relevant": 1.0})
        assert Counter(e.kind for e in examples)["relevant"] == 6
        assert isinstance(pairs[0], AffectPair)
        stem = [e.kind for e in examples if "The council was" in e.prompt]
        assert {"relevant", "irrelevant"} <= set(stem)
