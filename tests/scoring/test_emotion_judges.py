"""Judges of emotion: probabilities of seven classes, not told what was commanded; the shipped two are unlike."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from leakmech.core.errors import EstimatorError
from leakmech.core.store import read_jsonl_shard
from leakmech.datasets.emotions import EMOTIONS
from leakmech.scoring.emotion_judges import CLASSES, EncoderJudge, judged, label_order, load_judge, shipped

TEXTS = ["I am furious, how dare you.", "The bus leaves at nine.", "Yuck, what a stench.", "", "Wow, tears!"]


def test_the_lexicon_counts_words_and_knows_nothing_else():
    judge = load_judge("lexicon")
    found = judge(TEXTS)
    assert found.shape == (5, 7)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert judged(found) == ["anger", "neutral", "disgust", "neutral", "sadness"]
    np.testing.assert_allclose(found[4], [0, 0.5, 0, 0, 0.5, 0, 0])
    assert judge([]).shape == (0, 7)


def test_of_equal_probabilities_neutral_wins_and_else_the_first():
    even = np.full((1, 7), 1 / 7)
    two = np.array([[0, 0.4, 0, 0, 0, 0.4, 0.2]])
    assert judged(np.vstack([even, two])) == ["neutral", "sadness"]


def test_a_head_on_an_encoder_is_the_stated_formula():
    class Encoder:
        hash = "e"

        def __call__(self, texts):
            return np.array([[len(text), 1.0] for text in texts])

    weights, bias = np.arange(14.0).reshape(7, 2) / 20, np.linspace(-1, 1, 7)
    judge = EncoderJudge(Encoder(), weights, bias, {})
    logits = np.array([3.0, 1.0]) @ weights.T + bias
    np.testing.assert_allclose(judge(["abc"])[0], np.exp(logits) / np.exp(logits).sum())


def test_the_sentences_that_it_was_fitted_to_are_forty_a_class_with_varied_openings():
    rows = list(read_jsonl_shard(shipped().parent / "emotion_replies.jsonl"))
    assert Counter(row["emotion"] for row in rows) == dict.fromkeys((*EMOTIONS, "neutral"), 40)
    assert len({row["text"] for row in rows}) == 280
    for emotion in EMOTIONS:
        openings = Counter(" ".join(row["text"].split()[:2]) for row in rows if row["emotion"] == emotion)
        assert openings.most_common(1)[0][1] <= 3, emotion


def test_the_shipped_head_tells_plain_cases_apart_and_is_unlike_the_lexicon():
    judge = load_judge("encoder")
    texts = [
        "They cheated us, and I will make them pay for it.",
        "Since he died I have not left my bed.",
        "We danced and sang until the morning came.",
        "I hear steps in the cellar, please don't go down.",
        "I would never have guessed that it was you under the mask.",
        "Brown slime dripped out of the meat.",
        "The office opens at eight on weekdays.",
    ]
    found = judged(judge(texts))
    assert sum(a == b for a, b in zip(found, CLASSES, strict=True)) >= 5
    assert judged(load_judge("lexicon")(texts)) != found
    assert judge.details["encoder"]


LABELS = {0: "Joy", 1: "anger", 2: "disgust", 3: "fear", 4: "neutral", 5: "sadness", 6: "surprise"}


@pytest.fixture
def classifier(tmp_path):
    def save(labels):
        torch.manual_seed(0)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "bus", "yuck"]
        (tmp_path / "vocab.txt").write_text("\n".join(words))
        BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
        config = BertConfig(
            vocab_size=7, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            id2label=labels, label2id={name: n for n, name in labels.items()},
        )  # fmt: skip
        BertForSequenceClassification(config).eval().save_pretrained(tmp_path)
        return f"hub:{tmp_path}"

    return save


def test_a_classifier_of_the_hub_is_read_in_our_order(classifier):
    name = classifier(LABELS)
    judge = load_judge(name)
    found = judge(["yuck", "bus"])
    assert found.shape == (2, 7)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert judge.order == (1, 5, 0, 3, 6, 2, 4)
    assert judge.details["labels"][2] == "Joy"
    assert judge([]).shape == (0, 7)


@pytest.mark.fault("X601", "models", "a judge of emotion with other labels than the seven", "a line that names both")
def test_other_labels_are_refused(classifier):
    with pytest.raises(EstimatorError, match=r"emotion judge 'hub:.*': its labels are love, anger, .*; expected anger"):
        load_judge(classifier(LABELS | {0: "love"}))
    with pytest.raises(EstimatorError, match="its labels are LABEL_0"):
        label_order({n: f"LABEL_{n}" for n in range(7)}, name="hub:x", model_id="x")
    for name in ("lexicn", "hub", "encoder:x"):
        with pytest.raises(EstimatorError, match="unknown emotion judge"):
            load_judge(name)
