"""Expression estimators: the embedded head, VADER, and classifiers whose labels must be known."""

from __future__ import annotations

import json
from importlib import resources
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from leakmech.errors import EstimatorError
from leakmech.scoring import semantic
from leakmech.scoring.expression import (
    EmbeddingEstimator,
    Estimator,
    embed_and_score,
    label_order,
    load_estimator,
    load_head,
)
from leakmech.scoring.semantic import SentenceEncoder, load_encoder

NEGATIVE, NEUTRAL, POSITIVE = range(3)
HEAD = Path(str(resources.files("leakmech.scoring"))) / "data" / "embedded_head"


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return load_encoder("embedded", device="cpu")


@pytest.fixture(scope="module")
def embedded(encoder) -> EmbeddingEstimator:
    estimator = load_estimator("embedded", encoder=encoder)
    assert isinstance(estimator, EmbeddingEstimator)
    return estimator


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


@pytest.mark.parametrize("name", ["embedded", "vader"])
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


def test_the_embedded_estimator_uses_the_encoder_it_is_given(encoder, embedded):
    assert embedded.encoder is encoder
    texts = ["so happy", "a disaster."]
    np.testing.assert_array_equal(embedded.from_embeddings(encoder(texts)), embedded(texts))


def test_a_row_of_embeddings_scores_the_same_to_the_last_bit_in_any_batch(encoder, embedded):
    rows = encoder(["so happy", "a disaster.", "cooking.", "the ocean", "he left"])
    together = embedded.from_embeddings(np.concatenate([rows, rows[::-1]]))
    assert np.array_equal(together[:5], together[5:][::-1])
    for index in range(5):
        assert np.array_equal(embedded.from_embeddings(rows[index : index + 1])[0], together[index])


def test_each_text_is_embedded_once_when_estimator_and_similarity_share_the_encoder(encoder, embedded, monkeypatch):
    counted = []
    encode = semantic._encode
    monkeypatch.setattr(semantic, "_encode", lambda model, texts: counted.append(len(texts)) or encode(model, texts))
    embeddings, scores = embed_and_score(["a", "b", "a"], estimator=embedded, encoder=encoder)
    assert counted == [2]
    assert embeddings.shape == (3, 384)
    np.testing.assert_array_equal(scores, embedded.from_embeddings(embeddings))


def test_an_estimator_of_its_own_scores_the_texts_beside_the_embeddings(encoder, vader):
    embeddings, scores = embed_and_score(["so sad", "so happy"], estimator=vader, encoder=encoder)
    np.testing.assert_array_equal(embeddings, encoder(["so sad", "so happy"]))
    np.testing.assert_array_equal(scores, vader(["so sad", "so happy"]))


def test_the_shipped_head_agrees_with_people_better_than_vader_does():
    test = json.loads(HEAD.with_suffix(".json").read_text())["test"]
    assert test["embedded"]["all"]["accuracy"] > 0.66
    assert test["embedded"]["all"]["ece"] < 0.03
    for metric in ("accuracy", "macro_f1", "correlation"):
        assert test["embedded"]["all"][metric] > test["vader (compound)"]["all"][metric] + 0.05


def write_head(folder: Path, *, shape: tuple[int, int] = (3, 384), **changes: object) -> Path:
    description = json.loads(HEAD.with_suffix(".json").read_text()) | changes
    (folder / "head.json").write_text(json.dumps(description))
    tensors = {"weight": np.zeros(shape, dtype=np.float32), "bias": np.zeros(3, dtype=np.float32)}
    save_file(tensors, folder / "head.safetensors")
    return folder / "head"


def test_a_head_of_zeros_gives_thirds(tmp_path, encoder):
    np.testing.assert_allclose(load_head(write_head(tmp_path), encoder=encoder)(["x"]), [[1 / 3] * 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, r"head\.json: has format version 2; this leakmech reads 1"),
        ({"kind": "forest"}, "unknown kind 'forest'"),
        ({"labels": ["positive", "neutral", "negative"]}, "has labels positive, neutral, negative; expected negative"),
        ({"encoder_hash": "0" * 16}, "was fitted to another encoder"),
        ({"shape": (3, 5)}, r"weight \(3, 5\).* encoder of dimension 384"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(tmp_path, encoder, changes, message):
    with pytest.raises(EstimatorError, match=message):
        load_head(write_head(tmp_path, **changes), encoder=encoder)


def test_missing_and_damaged_head_files_are_named(tmp_path, encoder):
    with pytest.raises(EstimatorError, match=r"head\.json: is no estimator head"):
        load_head(tmp_path / "head", encoder=encoder)
    stem = write_head(tmp_path)
    stem.with_suffix(".safetensors").write_bytes(b"torn")
    with pytest.raises(EstimatorError, match=r"head\.safetensors: is missing or damaged"):
        load_head(stem, encoder=encoder)


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


@pytest.mark.parametrize("name", ["embeded", "hub", "hub:", "vader:x", "embedded:x", "textblob", ""])
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


def test_a_folder_with_unknown_labels_is_refused(tmp_path):
    folder = write_classifier(tmp_path, ["LABEL_0", "LABEL_1", "LABEL_2"])
    with pytest.raises(EstimatorError, match="its labels are LABEL_0, LABEL_1, LABEL_2"):
        load_estimator(f"hub:{folder}")


def test_a_folder_without_a_model_is_one_line(tmp_path):
    with pytest.raises(EstimatorError, match="cannot be loaded") as caught:
        load_estimator(f"hub:{tmp_path}")
    assert "\n" not in str(caught.value)
