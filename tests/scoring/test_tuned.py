"""The embedded estimator: files that belong together, adapters that merge as PEFT merges them, quality as printed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load, save_file
from transformers import BertConfig, BertModel

from leakmech.core.errors import EstimatorError
from leakmech.core.store import content_hash
from leakmech.scoring.semantic import SentenceEncoder, load_encoder
from leakmech.scoring.tuned import load_tuned, merge, shipped


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return load_encoder("embedded", device="cpu")


def described() -> dict:
    return json.loads(shipped().with_suffix(".json").read_text())


def copy(folder: Path, **changes: object) -> Path:
    """The shipped files under another name, the description changed; None removes a key."""
    shutil.copy(shipped().with_suffix(".safetensors"), folder / "mine.safetensors")
    description = {key: value for key, value in (described() | changes).items() if value is not None}
    (folder / "mine.json").write_text(json.dumps(description))
    return folder / "mine"


def test_the_shipped_weights_are_those_of_the_description_and_small():
    data = shipped().with_suffix(".safetensors").read_bytes()
    assert content_hash(data) == described()["weights_hash"]
    assert len(data) < 3 * 2**20


def test_the_shipped_estimator_reached_its_aims_on_the_test_part():
    test = described()["test"]
    assert test["embedded"]["all"]["macro_f1"] >= 0.75
    assert test["embedded"]["all"]["correlation"] >= 0.78
    assert test["embedded"]["all"]["ece"] <= 0.03
    for texts, metrics in test["embedded"].items():
        assert metrics["macro_f1"] > test["vader (compound)"][texts]["macro_f1"] + 0.05


def test_the_card_prints_the_numbers_of_the_description():
    metrics = described()["test"]["embedded"]["all"]
    rows = shipped().with_suffix(".md").read_text().splitlines()
    (row,) = [row for row in rows if row.startswith(f"| all | {metrics['n']} | embedded |")]
    printed = [float(cell) for cell in row.strip("| ").split(" | ")[3:]]
    assert printed == pytest.approx(
        [metrics[name] for name in ("accuracy", "macro_f1", "kappa", "correlation", "ece")], abs=6e-4
    )


def test_the_sentence_encoder_stays_untuned(encoder):
    before = encoder(["a lovely day"])
    load_tuned(shipped(), encoder=encoder)(["a lovely day"])
    np.testing.assert_array_equal(encoder(["a lovely day"]), before)


def test_equal_texts_get_equal_rows_and_company_does_not_matter(encoder):
    estimator = load_tuned(shipped(), encoder=encoder)
    texts = ["The meeting ended in tears.", "lovely", "the keys " * 300, "lovely", ""]
    rows = estimator(texts)
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-12)
    assert np.array_equal(rows[1], rows[3])
    np.testing.assert_allclose(np.concatenate([estimator([text]) for text in texts]), rows, atol=1e-5)


def test_merging_by_hand_equals_merging_by_peft():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = BertModel(
            BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
        )
        state = {name: value.clone() for name, value in plain.state_dict().items()}
        options = {"r": 3, "lora_alpha": 6, "target_modules": ["query", "dense"], "init_lora_weights": False}
        adapted = get_peft_model(plain, LoraConfig(**options))
    tensors = {
        name.removeprefix("base_model.model.").removesuffix(".weight"): value
        for name, value in get_peft_model_state_dict(adapted).items()
    }
    merged = adapted.merge_and_unload().state_dict()
    ours = BertModel(plain.config)
    ours.load_state_dict(state)
    merge(ours, tensors, scale=2.0)
    assert not torch.allclose(
        state["encoder.layer.0.attention.self.query.weight"], ours.encoder.layer[0].attention.self.query.weight
    )
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, merged[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, r"mine\.json: has format version 1; this leakmech reads 2"),
        ({"kind": "forest"}, "unknown kind 'forest'; valid: lora"),
        ({"labels": ["positive", "neutral", "negative"]}, "has labels positive, neutral, negative; expected negative"),
        ({"format_version": None}, "does not describe an estimator"),
        ({"labels": None}, r"mine\.json: lacks labels"),
        ({"lora_scale": None}, r"mine\.json: lacks lora_scale"),
        ({"encoder_hash": "0" * 16}, "was tuned on another encoder than 'embedded' is now"),
        ({"weights_hash": "0" * 16}, r"mine\.safetensors: does not belong to mine\.json"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, encoder, changes, message):
    with pytest.raises(EstimatorError, match=message):
        load_tuned(copy(tmp_path, **changes), encoder=encoder)


def test_missing_damaged_and_incomplete_files_are_named(tmp_path, encoder):
    with pytest.raises(EstimatorError, match=r"mine\.json: no such file; expected an estimator"):
        load_tuned(tmp_path / "mine", encoder=encoder)
    weights = copy(tmp_path).with_suffix(".safetensors")
    tensors = {name: value for name, value in load(weights.read_bytes()).items() if not name.endswith("lora_B")}
    weights.write_bytes(b"torn")
    with pytest.raises(EstimatorError, match=r"mine\.safetensors: is missing or damaged"):
        load_tuned(tmp_path / "mine", encoder=encoder)
    save_file(tensors, weights)
    stem = tmp_path / "mine"
    stem.with_suffix(".json").write_text(json.dumps(described() | {"weights_hash": content_hash(weights.read_bytes())}))
    with pytest.raises(EstimatorError, match=r"mine\.safetensors: does not fit the encoder"):
        load_tuned(stem, encoder=encoder)
