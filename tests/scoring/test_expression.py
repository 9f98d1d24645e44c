"""Expression estimators: the embedded head, VADER, and classifiers whose labels must be known."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leakmech.core.errors import EstimatorError
from leakmech.scoring.expression import (
    Estimator,
    estimator_hash,
    estimator_names,
    label_order,
    load_estimator,
    masked,
)
from leakmech.scoring.semantic import SentenceEncoder, load_encoder

NEGATIVE, NEUTRAL, POSITIVE = range(3)


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return load_encoder("embedded", device="cpu")


@pytest.fixture(scope="module")
def embedded(encoder) -> Estimator:
    return load_estimator("embedded", encoder=encoder)


@pytest.fixture(scope="module")
def vader() -> Estimator:
    return load_estimator("vader")


@pytest.mark.parametrize("text", ["I am so happy", "It tastes delicious!", "to make people happy."])
def test_cheerful_texts_are_mostly_positive(embedded, text):
    assert embedded([text])[0].argmax() == POSITIVE


@pytest.mark.parametrize("text", ["I am so sad", "a disaster.", "was cancelled because of the rain."])
def test_gloomy_texts_are_mostly_negative(embedded, text):
    assert embedded([text])[0].argmax() == NEGATIVE


@pytest.mark.parametrize("text", ["", "The meeting ended with a summary of the next steps.", "cooking."])
def test_plain_and_empty_texts_are_mostly_neutral(embedded, text):
    assert embedded([text])[0].argmax() == NEUTRAL


@pytest.mark.parametrize("name", ["embedded", "vader", "ngrams"])
def test_rows_are_probabilities_in_the_order_of_the_texts(name, encoder):
    estimator = load_estimator(name, encoder=encoder)
    texts = ["bad, bad day", "great!", "", "bad, bad day", "😀", "!!!"]
    rows = estimator(texts)
    assert estimator.name == name
    assert rows.shape == (6, 3)
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-12)
    assert np.array_equal(rows[0], rows[3])
    np.testing.assert_allclose(estimator(texts[1:2])[0], rows[1], atol=1e-5)
    assert estimator([]).shape == (0, 3)
    json.dumps(dict(estimator.details), allow_nan=False)


def test_several_names_are_read_in_order_and_each_once():
    assert estimator_names("embedded, vader") == ("embedded", "vader")
    with pytest.raises(EstimatorError, match="'vader' is given twice"):
        estimator_names("vader,embedded,vader")
    with pytest.raises(EstimatorError, match="a name is empty"):
        estimator_names("vader,")


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_vader_finds_a_text_without_words_neutral(vader, text):
    assert vader([text]).tolist() == [[0.0, 1.0, 0.0]]


def test_vader_returns_the_proportions_of_its_analysis(vader):
    # Documented by VADER's authors: neg 0.0, neu 0.254, pos 0.746.
    np.testing.assert_allclose(vader(["VADER is smart, handsome, and funny."]), [[0.0, 0.254, 0.746]])


@given(st.text(max_size=60))
def test_vader_gives_probabilities_for_any_text(vader, text):
    row = vader([text])[0]
    assert (row >= 0).all()
    assert row.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "name", ["embeded", "ngram", "ngrams:x", "hub", "hub:", "vader:x", "embedded:x", "textblob", ""]
)
def test_an_unknown_name_is_refused_with_the_valid_ones(name):
    with pytest.raises(EstimatorError, match=r"unknown expression estimator .*(did you mean|valid: embedded, hub:<)"):
        load_estimator(name)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_named_labels_are_put_in_order(order):
    names = [["Negative", "neutral", "POSITIVE"][index] for index in order]
    found = label_order(dict(enumerate(names)), name="hub:x", model_id="x")
    assert [names[index].lower() for index in found] == ["negative", "neutral", "positive"]


def test_short_labels_are_understood():
    assert label_order({0: "POS", 1: "NEG", 2: "NEU"}, name="hub:x", model_id="x") == (1, 2, 0)


def test_numbered_labels_count_only_for_a_model_that_is_known():
    numbered = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    paper = "cardiffnlp/twitter-roberta-base-sentiment"
    assert label_order(numbered, name=f"hub:{paper}", model_id=paper) == (0, 1, 2)
    with pytest.raises(EstimatorError, match="its labels are LABEL_0, LABEL_1, LABEL_2; expected negative, neutral"):
        label_order(numbered, name="hub:acme/mystery", model_id="acme/mystery")


@pytest.mark.parametrize("labels", [["negative", "positive"], ["neg", "negative", "pos"], ["joy", "neutral", "sad"]])
def test_other_labels_are_refused_by_name(labels):
    with pytest.raises(EstimatorError, match=f"its labels are {', '.join(labels)}"):
        label_order(dict(enumerate(labels)), name="hub:x", model_id="x")


WORDS = ["[PAD]", "[UNK]", "good", "bad", "day", "keys", "the"]


def write_classifier(folder: Path, labels: list[str]) -> Path:
    """A random BERT classifier of one layer over whole words; the same weights whatever its labels are called."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        initializer_range=1.0,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


TEXTS = ["good day", "bad keys the day bad good", "the", "good day", "keys " * 40]


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier"), ["neg", "neu", "pos"])


def test_a_classifier_scores_any_length_in_the_order_of_the_texts(classifier_folder, capfd):
    estimator = load_estimator(f"hub:{classifier_folder}", device="cpu")
    rows = estimator(TEXTS)
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-12)
    assert np.array_equal(rows[0], rows[3])
    assert not np.allclose(rows[0], rows[1])
    alone = np.concatenate([estimator([text]) for text in TEXTS])
    np.testing.assert_allclose(rows, alone, atol=1e-6)
    assert estimator.details["labels"] == ["neg", "neu", "pos"]
    assert capfd.readouterr().err == ""


def test_columns_follow_the_labels_not_their_order_in_the_model(classifier_folder, tmp_path):
    turned = load_estimator(f"hub:{write_classifier(tmp_path, ['Positive', 'Neutral', 'Negative'])}", device="cpu")
    straight = load_estimator(f"hub:{classifier_folder}", device="cpu")
    np.testing.assert_allclose(turned(TEXTS), straight(TEXTS)[:, ::-1], atol=1e-12)


def test_the_paper_s_classifier_reads_texts_with_handles_and_links_masked(tmp_path, monkeypatch):
    assert masked("@anna see https://a.b @ now, a@b (http://c)") == "@user see http @ now, a@b (http://c)"
    assert masked("@anna\n@bob  x") == "@user  x"  # parts are cut at spaces only, as on the model card

    folder = write_classifier(tmp_path, ["LABEL_0", "LABEL_1", "LABEL_2"])
    monkeypatch.setattr("leakmech.scoring.expression.fetch", lambda *_, **__: folder)
    paper = load_estimator("hub:cardiffnlp/twitter-roberta-base-sentiment", device="cpu")
    # "@good" would be read as [UNK] good, "@user" as [UNK] [UNK]
    masked_row, user_row, good_row = paper(["bad @good", "bad @user", "bad good"])
    np.testing.assert_allclose(masked_row, user_row, atol=1e-6)
    assert not np.allclose(masked_row, good_row)
    assert paper.details["preparation"] == "@user, http"
    without = replace(paper, details={k: v for k, v in paper.details.items() if k != "preparation"})
    assert estimator_hash(paper) != estimator_hash(without)


def test_another_classifier_reads_texts_as_they_are(classifier_folder):
    estimator = load_estimator(f"hub:{classifier_folder}", device="cpu")
    at_good, at_user = estimator(["bad @good", "bad @user"])
    assert not np.allclose(at_good, at_user)
    assert "preparation" not in estimator.details


def test_a_folder_with_unknown_labels_is_refused(tmp_path):
    folder = write_classifier(tmp_path, ["LABEL_0", "LABEL_1", "LABEL_2"])
    with pytest.raises(EstimatorError, match="its labels are LABEL_0, LABEL_1, LABEL_2"):
        load_estimator(f"hub:{folder}")


def test_a_folder_without_a_model_is_one_line(tmp_path):
    with pytest.raises(EstimatorError, match="cannot be loaded") as caught:
        load_estimator(f"hub:{tmp_path}")
    assert "\n" not in str(caught.value)


class Cheerful:
    name = "acme"

    def __init__(self, rest: str) -> None:
        self.details = {"rest": rest}

    def __call__(self, texts):
        return np.tile([0.0, 0.0, 1.0], (len(texts), 1))


def cheerful(rest, encoder, device):
    return Cheerful(rest)


def nothing(rest, encoder, device):
    return None


def install(folder: Path, monkeypatch, *, name: str, value: str, package: str = "acme") -> None:
    """A distribution as pip leaves it: a folder of metadata on the path."""
    information = folder / f"{package}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[leakmech.estimators]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "acme_sentiment", sys.modules[__name__])
    importlib.invalidate_caches()


@pytest.mark.parametrize(("name", "rest"), [("acme", ""), ("acme:large", "large")])
def test_an_installed_package_can_add_an_estimator(tmp_path, monkeypatch, name, rest):
    install(tmp_path, monkeypatch, name="acme", value="acme_sentiment:cheerful")
    estimator = load_estimator(name)
    assert estimator.details == {"rest": rest}
    assert estimator(["sad"]).tolist() == [[0.0, 0.0, 1.0]]


def test_a_package_cannot_take_a_built_in_name(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, name="vader", value="acme_sentiment:cheerful")
    with pytest.raises(EstimatorError, match="estimator 'vader' of package acme: the name is taken by leakmech itself"):
        load_estimator("vader")


def test_two_packages_cannot_take_one_name(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, name="joy", value="acme_sentiment:cheerful", package="first")
    install(tmp_path, monkeypatch, name="joy", value="acme_sentiment:cheerful", package="second")
    with pytest.raises(EstimatorError, match=r"estimator 'joy' of package .*the name is taken by (first|second)"):
        load_estimator("joy")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("acme_missing:load", "acme_missing:load cannot be imported"),
        ("acme_sentiment:missing", "acme_sentiment:missing cannot be imported"),
        ("acme_sentiment:nothing", "returned NoneType; expected a callable with name and details"),
    ],
)
def test_a_package_whose_estimator_does_not_load_is_named(tmp_path, monkeypatch, value, message):
    install(tmp_path, monkeypatch, name="acme", value=value)
    with pytest.raises(EstimatorError, match=f"estimator 'acme' of package acme: .*{message}"):
        load_estimator("acme")
