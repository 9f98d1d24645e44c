"""``--algorithm paper``: nothing is refused or matched, and stems are the second half of the neutral draw, cut short.

Any addition can be switched on, and everything that differs from the paper is named.
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner
from word_estimator import WordEstimator

import leakmech
from leakmech.cli.app import app
from leakmech.core.errors import ConfigError, DatasetError
from leakmech.datasets.samples import INJECTIONS
from leakmech.datasets.stems import StemRules
from leakmech.runs.options import options_of
from leakmech.studies.aexl import run as data_build
from leakmech.studies.aexl.check import check_dataset
from leakmech.studies.aexl.run import build_aexl
from leakmech.studies.aexl.selection import check_disjoint, draw_in_proportion
from leakmech.studies.aexl.settings import PAPER, AexlSettings

SAMPLES, FIT = 4, 2
TOTAL = SAMPLES + FIT
MARKS = {"positive": "so lovely", "neutral": "rather grey", "negative": "so awful"}


def corpus_texts() -> list[str]:
    """Sentences that every filter of ours refuses: lower case, no final mark, leaning, an address, any length."""
    return [
        f"but {label}{index} it was {mark} at www.{label}{index}.com" + " again" * (index % 30)
        for label, mark in MARKS.items()
        for index in range(3 * TOTAL * (2 if label == "neutral" else 1))
    ]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """``build(**settings)``: AEXL by the paper's algorithm from these sentences, without encoder and tokenizer."""
    monkeypatch.setenv("LEAKMECH_CACHE", str(tmp_path / "cache"))
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"{text}\n" for text in corpus_texts()))

    def run(out="out/aexl.jsonl", **settings):
        defaults = {"algorithm": "paper", "corpus": str(corpus), "samples": SAMPLES, "fit": FIT}
        return build_aexl(tmp_path / out, estimator=WordEstimator(), tokenizer=None, **(defaults | settings))

    return run


def test_every_class_gives_three_times_what_is_drawn_and_neutral_twice_as_much(build):
    card = build().card
    assert (card["settings"]["m"], card["settings"]["n"]) == (3 * TOTAL, TOTAL)
    classes = card["counts"]["classes"]
    assert {label: (own["kept"], own["drawn"]) for label, own in classes.items()} == {
        "positive": (18, 6),
        "neutral": (36, 12),
        "negative": (18, 6),
    }
    assert card["counts"]["refused"] == {}


def test_two_hundred_samples_have_the_sizes_of_the_paper():
    settings = AexlSettings.parse({"algorithm": "paper", "samples": 200})
    drawn = {label: settings.drawn(label) for label in INJECTIONS}
    assert drawn == {"positive": 200, "neutral": 400, "negative": 200}
    assert {label: settings.kept(label) for label in INJECTIONS} == {label: 3 * n for label, n in drawn.items()}


def test_injections_are_the_first_half_of_the_draw_and_stems_the_second_cut_to_five_words(build, monkeypatch):
    order = []

    def draw(candidates, n, *, seed):
        drawn = draw_in_proportion(candidates, n, seed=seed)
        order.extend(one.text for one in drawn if "neutral" in one.text)
        return drawn

    monkeypatch.setattr("leakmech.studies.aexl.choice.draw_in_proportion", draw)
    samples = list(build().samples)
    assert [sample.neutral for sample in samples] == order[:TOTAL]
    assert [sample.stem for sample in samples] == [" ".join(text.split()[:5]) for text in order[TOTAL : 2 * TOTAL]]
    for sample in samples:
        assert sample.positive in corpus_texts()
        assert (MARKS["positive"] in sample.positive, MARKS["negative"] in sample.negative) == (True, True)
    check_disjoint(samples)


def test_a_stem_that_repeats_is_replaced_by_the_next_draw(build, tmp_path):
    corpus = tmp_path / "same.txt"
    lines = [text for text in corpus_texts() if "neutral" not in text]
    lines += [f"All of us went on to place{index} that day" for index in range(20)]  # all are cut to the same stem
    lines += [f"Road{index} is rather grey at noon today" for index in range(16)]
    corpus.write_text("".join(f"{text}\n" for text in lines))
    result = build(corpus=str(corpus), samples=6, fit=0)
    stems = [sample.stem for sample in result.samples]
    assert len(set(stems)) == 6
    assert stems.count("All of us went on") == 1


def test_a_sentence_of_no_more_than_five_words_stays_whole_and_is_counted(build, tmp_path):
    corpus = tmp_path / "short.txt"
    lines = [text for text in corpus_texts() if "neutral" not in text]
    lines += [f"Road{index} is rather grey." for index in range(36)]
    corpus.write_text("".join(f"{text}\n" for text in lines))
    result = build(corpus=str(corpus))
    assert all(sample.stem.endswith("is rather grey.") for sample in result.samples)
    assert result.card["counts"]["stems"]["whole_sentences"] == TOTAL
    assert "| stems in samples that are whole sentences | 6 |" in result.files["test"].with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("sentence", "stem"),
    [
        ("the film is good , and so was the book .", "the film is good , and"),
        ("In the end, I was, as so often, late.", "In the end, I was,"),
        ("It rained.", "It rained."),
        ("One two three four five.", "One two three four five."),
    ],
)
def test_a_stem_of_the_kind_words_is_the_first_five_words(sentence, stem):
    assert StemRules(end="words", min_words=1, max_words=5).cut(sentence) == stem


def test_too_few_sentences_are_named_with_what_the_corpus_carries_before_anything_is_written(build, tmp_path):
    message = (
        r"class positive \(found of needed: positive 18 of 36, neutral 36 of 72, negative 18 of 36\); use a larger "
        r"corpus, ask for --samples 4 --fit 2 or fewer"
    )
    with pytest.raises(DatasetError, match=message):
        build(samples=10)
    assert not (tmp_path / "out").exists()


def test_a_filter_that_is_switched_on_is_honoured_and_named_as_a_departure(build, tmp_path):
    corpus = tmp_path / "clean.txt"
    lines = [text.replace("www.", "").replace(".com", "") for text in corpus_texts()]
    corpus.write_text("".join(f"{line}\n" for line in [*corpus_texts()[:4], *lines]))
    result = build(corpus=str(corpus), personal_data_filter=True)
    assert result.card["counts"]["refused"] == {"personal data": 4}
    assert result.card["departures"]["personal_data_filter"] == {"here": True, "paper": False}
    assert "profanity_filter" not in result.card["departures"]
    assert "| personal_data_filter | yes | no |" in result.files["test"].with_suffix(".md").read_text()


def test_departures_are_what_is_given_and_what_cannot_be_had(build):
    assert set(build().card["departures"]) == {"corpus", "estimator", "samples", "fit"}
    settings = AexlSettings.parse({"algorithm": "paper", "match_length": True, "m": 700})
    assert settings.departures() == {
        "estimator": {"here": "embedded", "paper": "hub:cardiffnlp/twitter-roberta-base-sentiment"},
        "corpus": {"here": "embedded", "paper": "agentlans/high-quality-english-sentences"},
        "m": {"here": 700, "paper": 600},
        "match_length": {"here": True, "paper": False},
    }
    assert set(PAPER) <= set(AexlSettings.parse({}).departures())


def test_the_default_algorithm_leaves_no_trace_and_keeps_its_settings():
    plain = AexlSettings.parse({})
    assert plain.identity() == AexlSettings.parse({"algorithm": "leakmech"}).identity()
    assert not {"algorithm", "tidy", "separate_sources", "form_filter"} & set(plain.identity())
    paper = AexlSettings.parse({"algorithm": "paper", "tidy": True})
    assert AexlSettings.parse(paper.identity()) == paper


def test_the_help_of_every_setting_says_what_the_paper_has():
    helps = {option.path[0]: option.help for option in options_of(AexlSettings)}
    for name, value in PAPER.items():
        wanted = "none" if value is None else "no" if value is False else str(value).removesuffix(".0")
        assert f"(paper: {wanted})" in helps[name], name


def test_settings_that_cannot_be_together_are_refused():
    with pytest.raises(ConfigError, match="stem_pool has no effect where stems are drawn"):
        AexlSettings.parse({"algorithm": "paper", "stem_pool": 9})
    with pytest.raises(ConfigError, match="n = 5 gives 5 stems, fewer than 200 samples; raise --n"):
        AexlSettings.parse({"algorithm": "paper", "n": 5})


def test_a_set_by_the_paper_can_be_built_again_and_checked(build, tmp_path, monkeypatch, plain_tokenizer):
    monkeypatch.setattr(data_build, "load_estimator", lambda name: WordEstimator())
    plain_tokenizer.save_pretrained(tmp_path / "tokenizer")
    out = tmp_path / "by-command" / "aexl.jsonl"
    tokenizer = ["--tokenizer", str(tmp_path / "tokenizer")]
    words = ["data", "build-aexl", "--algorithm", "paper", "--corpus", str(tmp_path / "corpus.txt"), "--samples", "4"]
    first = CliRunner().invoke(app, [*words, "--out", str(out), *tokenizer], catch_exceptions=False)
    assert first.exit_code == 0, first.output
    assert "Settings that differ from the paper's algorithm" in first.output
    before = out.read_bytes()
    again = CliRunner().invoke(app, ["data", "build-aexl", "--out", str(out), *tokenizer], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert out.read_bytes() == before
    assert json.loads(out.with_suffix(".json").read_text())["settings"]["algorithm"] == "paper"
    found = check_dataset(out, tokenizer=str(tmp_path / "tokenizer"), estimator="vader")
    assert found.problems == ()
    assert len(leakmech.load_dataset(out)) == 4
