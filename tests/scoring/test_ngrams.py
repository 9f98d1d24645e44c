"""The n-gram estimator: files that belong together, rows worked out by hand, what it reads and what it cannot read."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leakmech.core.errors import EstimatorError
from leakmech.core.paths import cache_root
from leakmech.core.store import content_hash
from leakmech.scoring import tuned
from leakmech.scoring.expression import estimator_hash, load_estimator
from leakmech.scoring.ngrams import BLOCKS, FORMAT, Block, NgramEstimator, decoded, encoded, load_ngrams, shipped

NEGATIVE, NEUTRAL, POSITIVE = range(3)


@pytest.fixture(scope="module")
def estimator() -> NgramEstimator:
    return load_ngrams(shipped())


def described() -> dict:
    return json.loads(shipped().with_suffix(".json").read_text())


def write(folder: Path, *, words: list[str], weight: list[list[float]], **changes: object) -> Path:
    """An estimator of some words, all with idf 1, and one piece of a word without weight."""
    tensors = {
        "words.terms": encoded(words),
        "words.idf": torch.ones(len(words)),
        "words.weight": torch.tensor(weight),
        "pieces.terms": encoded(["zzz"]),
        "pieces.idf": torch.ones(1),
        "pieces.weight": torch.zeros(1, 3),
        "bias": torch.zeros(3),
    }
    FORMAT.write(folder / "mine.json", {"labels": ["negative", "neutral", "positive"]} | changes, tensors)
    return folder / "mine"


def test_rows_are_those_worked_out_by_hand(tmp_path):
    stem = write(tmp_path, words=["bad", "day", "bad day"], weight=[[2.0, 0, 0], [0, 1.0, 0], [0, 0, 3.0]])
    rows = load_ngrams(stem)(["Bad day, bad DAY!", "nothing known"])
    once_twice = 1 + np.log(2)  # each of the three terms is there twice, so that all weigh 1 / sqrt(3)
    x = np.full(3, once_twice) / np.sqrt(3 * once_twice**2)
    logits = x * [2.0, 1.0, 3.0]
    np.testing.assert_allclose(rows[0], np.exp(logits) / np.exp(logits).sum(), rtol=1e-6)
    np.testing.assert_allclose(rows[1], 1 / 3)  # the bias alone


def test_rows_are_probabilities_in_the_order_of_texts_and_labels(estimator):
    texts = ["bad, terrible day", "It was wonderful!", "", "bad, terrible day", "😀", "!!!"]
    rows = load_estimator("ngrams")(texts)
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-12)
    assert np.array_equal(rows[0], rows[3])
    assert (rows[0].argmax(), rows[1].argmax()) == (NEGATIVE, POSITIVE)
    np.testing.assert_allclose(np.concatenate([estimator([text]) for text in texts]), rows, atol=1e-12)
    assert estimator([]).shape == (0, 3)
    json.dumps(dict(estimator.details), allow_nan=False)


@given(st.text(max_size=60))
def test_any_text_has_probabilities(estimator, text):
    row = estimator([text])[0]
    assert (row >= 0).all()
    assert row.sum() == pytest.approx(1.0)


def valence(estimator: NgramEstimator, *texts: str) -> np.ndarray:
    rows = estimator(texts)
    return rows[:, POSITIVE] - rows[:, NEGATIVE]


def test_negation_next_to_a_word_turns_it_and_case_does_not_matter(estimator):
    good, not_good, loud = valence(estimator, "It was good.", "It was not good.", "IT WAS GOOD.")
    assert not_good < good - 0.2
    assert loud == good


def test_a_misspelt_or_inflected_word_is_still_read_by_its_pieces(estimator):
    plain, misspelt, nonsense = valence(estimator, "so wonderful", "so wonderfull", "so xqzjkwv")
    assert misspelt > nonsense + 0.1
    assert plain > nonsense + 0.1


def test_terms_survive_being_stored():
    terms = ["a b", "don't", " äö", "😀", "!!"]
    assert decoded(encoded(terms)) == terms


def test_the_shipped_files_belong_together_are_small_and_load_at_once(estimator):
    data = shipped().with_suffix(".safetensors").read_bytes()
    assert content_hash(data) == described()["weights_hash"]
    assert len(data) < 2 * 2**20
    started = time.process_time()
    load_ngrams(shipped())
    assert time.process_time() - started < 1
    assert estimator_hash(load_ngrams(shipped())) == estimator_hash(estimator)


def test_it_saw_the_data_that_the_embedded_estimator_saw():
    embedded = json.loads(tuned.shipped().with_suffix(".json").read_text())
    assert described()["training_data"] == embedded["training_data"]
    assert described()["split_sizes"] == embedded["split_sizes"]
    for texts, metrics in described()["test"]["embedded"].items():
        assert metrics["n"] == embedded["test"]["embedded"][texts]["n"]


def test_the_card_prints_the_numbers_of_the_description():
    metrics = described()["test"]["ngrams"]["all"]
    rows = shipped().with_suffix(".md").read_text().splitlines()
    (row,) = [row for row in rows if row.startswith(f"| all | {metrics['n']} | ngrams |")]
    printed = [float(cell) for cell in row.strip("| ").split(" | ")[3:]]
    names = ("accuracy", "macro_f1", "kappa", "correlation", "ece")
    assert printed == pytest.approx([metrics[name] for name in names], abs=6e-4)


def test_files_that_cannot_be_used_are_refused_by_name(tmp_path):
    for file in ("json", "safetensors"):
        shutil.copy(shipped().with_suffix(f".{file}"), tmp_path / f"mine.{file}")
    (tmp_path / "mine.safetensors").write_bytes(b"no tensors")
    with pytest.raises(EstimatorError, match=r"mine\.safetensors: is missing or damaged"):
        load_ngrams(tmp_path / "mine")
    stem = write(tmp_path, words=["bad", "good"], weight=[[1.0, 0, 0]])
    with pytest.raises(EstimatorError, match="2 terms of words with tensors of shapes"):
        load_ngrams(stem)
    stem = write(tmp_path, words=["bad"], weight=[[1.0, 0, 0]], labels=["positive", "neutral", "negative"])
    with pytest.raises(EstimatorError, match="expected negative, neutral, positive"):
        load_ngrams(stem)


def test_counting_ignores_line_breaks_within_a_text():
    block = Block.of("pieces", ["bad", " ba"], np.ones(2))
    np.testing.assert_array_equal(block(["a\nbad\tday"]).toarray(), block(["a bad day"]).toarray())
    assert set(BLOCKS) == {"words", "pieces"}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not (cache_root() / "hutto_icwsm_2014").is_dir(), reason="the ratings are not in the cache")
def test_fitting_again_gives_the_shipped_estimator(estimator):
    import train_estimator
    import train_ngrams

    from leakmech.datasets.archive import fetch_archive, load_ratings

    description = described()
    texts = train_estimator.prepare(load_ratings(fetch_archive()))
    texts.loc[description["left_out"], "split"] = train_estimator.LEFT_OUT
    assert train_estimator.training_hash(texts) == description["training_data"]["hash"]
    parts = {name: texts.loc[texts["split"] == name] for name in train_estimator.SHARES}
    tensors = train_ngrams.fit(parts, train_ngrams.Candidate(**description["training"]))
    assert decoded(tensors["words.terms"]) == estimator.blocks["words"].counter.vocabulary
    for name, weight in estimator.weights.items():
        np.testing.assert_allclose(tensors[f"{name}.weight"].double().numpy(), weight, atol=0.02)
