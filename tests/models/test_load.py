from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Model,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging

from leakmech.core.errors import ModelError
from leakmech.generation.decode import Decoder, Row
from leakmech.generation.decoding import Decoding
from leakmech.models.load import load_adapter, load_model

SMALL_BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}


def _ids(text="Her passion is"):
    return torch.tensor([list(text.encode())])


def _logits(loaded):
    with torch.inference_mode():
        return loaded.model(input_ids=_ids()).logits


def _message(*arguments, **options):
    """The one line that `load_model` fails with."""
    with pytest.raises(ModelError) as caught:
        load_model(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- what is loaded ------------------------------------------------------------------------------------------------


def test_model_from_a_folder_computes_what_was_saved_there(save_tiny, make_tiny):
    folder = save_tiny("qwen2")
    loaded = load_model(folder, dtype="float32", device="cpu")
    with torch.inference_mode():
        expected = make_tiny("qwen2")(input_ids=_ids()).logits
    torch.testing.assert_close(_logits(loaded), expected)
    assert loaded.name == str(folder)
    assert (loaded.device.type, loaded.dtype, loaded.model.training) == ("cpu", torch.float32, False)
    assert loaded.has_chat_template


def test_every_test_architecture_loads_from_memory_and_describes_itself_in_json(tiny_loaded, tiny_model):
    info = tiny_loaded.info()
    assert json.loads(json.dumps(info)) == info
    assert info["architecture"] == type(tiny_model).__name__
    assert info["n_parameters"] == sum(p.numel() for p in tiny_model.parameters())
    assert (info["device"], info["dtype"]) == ("cpu", "float32")


def test_model_in_memory_is_used_as_it_is_and_put_into_eval_mode(make_tiny, plain_tokenizer):
    model = make_tiny("gpt2").train()
    loaded = load_model(model, tokenizer=plain_tokenizer)
    assert loaded.model is model
    assert not model.training
    assert loaded.dtype is torch.float32  # None and "auto" leave a model in memory alone
    assert load_model(model, tokenizer=plain_tokenizer, dtype="auto").dtype is torch.float32
    assert load_model(model, tokenizer=plain_tokenizer, dtype="bf16").dtype is torch.bfloat16


def test_model_in_memory_finds_the_tokenizer_of_the_folder_it_came_from(save_tiny):
    model = load_model(save_tiny("llama-gqa")).model
    assert load_model(model).tokenizer.decode([ord("h") - 33]) == "h"


def test_model_in_memory_without_origin_asks_for_a_tokenizer(make_tiny):
    assert _message(make_tiny("gpt2")) == (
        "GPT2LMHeadModel: a model in memory that was not loaded by name needs tokenizer="
    )


def test_a_model_that_is_spread_over_devices_is_refused(make_tiny, plain_tokenizer):
    model = make_tiny("llama-gqa")
    model.hf_device_map = {"model.embed_tokens": 0, "lm_head": 1}  # what accelerate leaves; there is one device here
    with pytest.raises(ModelError, match="several devices"):
        load_model(model, tokenizer=plain_tokenizer)
    model.hf_device_map = {"": 0}
    assert load_model(model, tokenizer=plain_tokenizer).model is model


def test_something_else_in_memory_is_refused():
    assert _message(torch.nn.Linear(2, 2)) == (
        "a model is a name, a folder, or a transformers or PEFT model, not Linear"
    )


def test_missing_pad_token_is_replaced_by_an_existing_one_in_a_copy(make_tiny, plain_tokenizer):
    tokenizer = copy.deepcopy(plain_tokenizer)
    tokenizer.pad_token = None
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=tokenizer)
    assert loaded.tokenizer.pad_token == "<|endoftext|>"
    assert len(loaded.tokenizer) == len(tokenizer) == 259
    assert tokenizer.pad_token is None


def test_pad_token_beyond_the_embedding_is_replaced(make_tiny, plain_tokenizer):
    tokenizer = copy.deepcopy(plain_tokenizer)
    tokenizer.add_tokens([f"<extra {i}>" for i in range(5)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})  # id 264, and the model has 264 rows
    assert load_model(make_tiny("llama-gqa"), tokenizer=tokenizer).tokenizer.pad_token_id == 256


def test_loading_is_silent_and_leaves_transformers_logging_as_it_was(save_tiny, capfd):
    folder = save_tiny("llama-gqa")
    capfd.readouterr()
    verbosity = logging.get_verbosity()
    load_model(folder)
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == verbosity


# -- what is not a model -------------------------------------------------------------------------------------------


def test_missing_folders_and_files_are_named(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_text("")
    assert _message(tmp_path / "absent") == f"{tmp_path / 'absent'}: no such folder"
    assert _message("./absent") == "./absent: no such folder"
    assert _message("a/b/c") == "a/b/c: no such folder"
    assert _message(file) == f"{file}: is a file; give the folder of the model"


def test_empty_folder_says_that_it_has_no_config(tmp_path):
    assert _message(tmp_path) == (
        f"{tmp_path}: holds no model (it has no config.json) and no adapter (no adapter_config.json)"
    )


def test_folder_without_weights_says_which_file_is_missing(save_tiny):
    folder = save_tiny("gpt2")
    (folder / "model.safetensors").unlink()
    message = _message(folder)
    assert message.startswith(f"{folder}: the weights cannot be read (")
    assert "model.safetensors" in message


def test_damaged_weights_and_config_are_one_line(save_tiny):
    folder = save_tiny("gpt2")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert _message(folder).startswith(f"{folder}: the weights cannot be read (")
    (folder / "config.json").write_text('{"model_type": "gpt2", ')
    assert "cannot be read (" in _message(folder)
    (folder / "config.json").write_text('{"model_type": "no-such-type"}')
    assert _message(folder, tokenizer=AutoTokenizer.from_pretrained(save_tiny("qwen2"))).startswith(
        f"{folder}: config.json cannot be read (The checkpoint you are trying to load has model type `no-such-type`"
    )


@pytest.mark.parametrize("name", ["llama-gqa", "qwen2", "gemma3", "gpt2", "gpt-neox"])
def test_folder_without_tokenizer_is_refused(save_tiny, name):
    folder = save_tiny(name, tokenizer=False)
    assert _message(folder) == f"{folder}: has no tokenizer; save one there or pass tokenizer="


def test_tokenizer_without_a_vocabulary_is_refused(save_tiny):
    folder = save_tiny("gpt2", tokenizer=False)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    assert _message(folder) == f"{folder}: its tokenizer has no vocabulary; save one there or pass tokenizer="


def test_tokenizer_of_a_larger_model_is_refused(make_tiny, plain_tokenizer):
    model = make_tiny("gpt2")
    model.resize_token_embeddings(100)
    assert _message(model, tokenizer=plain_tokenizer) == (
        "GPT2LMHeadModel: the tokenizer has 256 tokens, but the model embeds only 100"
    )


def _save(model, folder, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_encoders_and_encoder_decoders_are_no_causal_models(tmp_path, plain_tokenizer):
    bert = BertConfig(vocab_size=264, **SMALL_BERT)
    t5 = T5Config(vocab_size=264, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=0)
    for model, said in (
        (BertModel(bert), "BertModel is not a causal language model"),
        (BertForMaskedLM(bert), "BertForMaskedLM is not a causal language model"),
        (
            T5ForConditionalGeneration(t5),
            "T5ForConditionalGeneration is an encoder-decoder, not a causal language model",
        ),
    ):
        folder = _save(model, tmp_path / type(model).__name__, plain_tokenizer)
        assert _message(folder) == f"{folder}: {said}"
        assert _message(model, tokenizer=plain_tokenizer).endswith("is not a causal language model")


def test_headless_models_are_refused_instead_of_getting_a_random_head(tmp_path, make_tiny, plain_tokenizer):
    llama = make_tiny("llama-gqa")
    headless = LlamaModel(llama.config)
    folder = _save(headless, tmp_path / "headless", plain_tokenizer)
    assert _message(folder) == f"{folder}: LlamaModel is not a causal language model"
    assert _message(GPT2Model(make_tiny("gpt2").config), tokenizer=plain_tokenizer) == (
        "GPT2Model is not a causal language model"
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    assert _message(folder) == f"{folder}: its weights lack 1 tensors, for example 'lm_head.weight'"


def test_remote_code_runs_only_when_asked_for(save_tiny):
    folder = save_tiny("gpt2")
    config = json.loads((folder / "config.json").read_text())
    custom = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config | custom))
    (folder / "mine.py").write_text("raise RuntimeError('code of the model was run')")
    assert (
        _message(folder)
        == f"{folder}: runs Python code of its own; pass trust_remote_code=True if you trust its source"
    )
    assert "code of the model was run" in _message(folder, trust_remote_code=True)


def test_revision_of_something_local_is_refused(save_tiny):
    folder = save_tiny("gpt2")
    assert _message(folder, revision="main") == f"{folder}: only a model on the hub has revisions (asked for 'main')"


def test_model_that_does_not_fit_on_the_device_is_one_line(save_tiny, monkeypatch):
    folder = save_tiny("gpt2")

    def no_memory(*_arguments, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr("transformers.PreTrainedModel.to", no_memory)
    assert _message(folder, device="cpu") == f"{folder}: does not fit on cpu; use a smaller model or device='cpu'"


# -- identity ------------------------------------------------------------------------------------------------------


def test_weights_hash_is_the_same_after_a_reload_and_another_for_other_weights(save_tiny):
    first, again, other = (load_model(save_tiny("qwen2", seed=seed)) for seed in (0, 0, 1))
    assert first.weights_hash == again.weights_hash
    assert first.weights_hash != other.weights_hash
    assert first.tokenizer_hash == other.tokenizer_hash


def test_weights_hash_does_not_depend_on_the_folder(save_tiny, tmp_path):
    folder = save_tiny("gemma3")
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    assert load_model(folder).weights_hash == load_model(moved).weights_hash


def test_weights_hash_changes_when_any_single_tensor_changes_by_one_bit(tiny_model, plain_tokenizer):
    model = copy.deepcopy(tiny_model)
    unchanged = load_model(model, tokenizer=plain_tokenizer).weights_hash
    assert unchanged == load_model(tiny_model, tokenizer=plain_tokenizer).weights_hash
    for name, parameter in model.named_parameters():
        before = parameter.detach().clone()
        last = parameter.data.view(-1)[-1:]
        last.copy_(torch.nextafter(last, torch.full_like(last, torch.inf)))
        assert load_model(model, tokenizer=plain_tokenizer).weights_hash != unchanged, name
        parameter.data.copy_(before)
    assert load_model(model, tokenizer=plain_tokenizer).weights_hash == unchanged


def test_weights_hash_sees_swapped_rows_dtype_and_settings(make_tiny, plain_tokenizer):
    def hash_of(model):
        return load_model(model, tokenizer=plain_tokenizer).weights_hash

    hashes = [hash_of(make_tiny("llama-gqa")), hash_of(make_tiny("llama-gqa").bfloat16())]
    swapped = make_tiny("llama-gqa")
    projection = swapped.model.layers[1].mlp.down_proj.weight.data
    projection[[0, 1]] = projection[[1, 0]]
    hashes.append(hash_of(swapped))
    longer = make_tiny("llama-gqa")
    longer.config.rope_parameters = {**longer.config.rope_parameters, "rope_theta": 5e5}
    hashes.append(hash_of(longer))
    assert len(set(hashes)) == 4


def test_tokenizer_hash_ignores_what_a_padded_call_leaves_behind(plain_tokenizer, chat_tokenizer, make_tiny):
    model = make_tiny("gpt2")
    tokenizer = copy.deepcopy(plain_tokenizer)
    before = load_model(model, tokenizer=tokenizer).tokenizer_hash
    tokenizer(["a", "abc"], padding=True, truncation=True, max_length=2)
    assert load_model(model, tokenizer=tokenizer).tokenizer_hash == before
    assert load_model(model, tokenizer=chat_tokenizer).tokenizer_hash != before  # another end-of-text token
    tokenizer.add_tokens(["<new>"])
    assert load_model(model, tokenizer=tokenizer).tokenizer_hash != before


def test_template_hash_follows_the_chat_template(make_tiny, chat_tokenizer):
    model = make_tiny("gpt2")
    other = copy.deepcopy(chat_tokenizer)
    other.chat_template = chat_tokenizer.chat_template.replace("assistant", "model")
    without = copy.deepcopy(chat_tokenizer)
    without.chat_template = None
    loaded = [load_model(model, tokenizer=tokenizer) for tokenizer in (chat_tokenizer, other, without)]
    assert len({each.template_hash for each in loaded}) == 3
    assert [each.has_chat_template for each in loaded] == [True, True, False]


# -- adapters ------------------------------------------------------------------------------------------------------


def _adapter(base, folder, *, scale=1.0, layers=None, **options):
    """Save a LoRA adapter with random weights for a copy of `base`; returns its folder."""
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)
    adapted = get_peft_model(copy.deepcopy(base), config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(folder)
    return folder


def test_adapter_folder_loads_its_base_and_adds_the_adapter(save_tiny, tmp_path):
    base = load_model(save_tiny("llama-gqa"), dtype="float32", device="cpu")
    folder = _adapter(base.model, tmp_path / "adapter")
    adapted = load_model(folder, dtype="float32", device="cpu")
    assert adapted.adapter == adapted.name == str(folder)
    assert adapted.architecture == "LlamaForCausalLM"
    assert not torch.allclose(_logits(adapted), _logits(base))
    assert adapted.weights_hash != base.weights_hash
    merged = adapted.model.merge_and_unload()
    with torch.inference_mode():
        torch.testing.assert_close(merged(input_ids=_ids()).logits, _logits(adapted))


def test_adapter_added_later_equals_the_adapter_folder_and_leaves_the_base_alone(save_tiny, tmp_path):
    base = load_model(save_tiny("llama-gqa"), dtype="float32", device="cpu")
    before, hash_before = _logits(base), base.weights_hash
    folder = _adapter(base.model, tmp_path / "adapter")
    adapted = load_adapter(base, folder)
    torch.testing.assert_close(_logits(adapted), _logits(load_model(folder, dtype="float32", device="cpu")))
    torch.testing.assert_close(_logits(base), before, rtol=0, atol=0)
    assert load_model(base.model, tokenizer=base.tokenizer).weights_hash == hash_before
    assert adapted.tokenizer is base.tokenizer
    with pytest.raises(ModelError, match="has an adapter already"):
        load_adapter(adapted, folder)


def test_peft_model_in_memory_and_the_scale_of_its_adapter_count(make_tiny, plain_tokenizer, tmp_path):
    def loaded(alpha):
        config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj"], init_lora_weights=True)
        torch.manual_seed(0)
        return load_model(get_peft_model(make_tiny("llama-gqa"), config), tokenizer=plain_tokenizer)

    assert loaded(4).weights_hash == loaded(4).weights_hash != loaded(8).weights_hash
    assert loaded(4).architecture == "LlamaForCausalLM"


@pytest.mark.fault(
    "F17", "adapters", "an adapter whose base lay elsewhere", "a line says whose, and how to name another"
)
def test_adapter_whose_base_is_gone_or_unnamed_says_so(save_tiny, tmp_path):
    base = load_model(save_tiny("llama-gqa"))
    folder = _adapter(base.model, tmp_path / "adapter")
    description = folder / "adapter_config.json"
    config = json.loads(description.read_text())
    assert config["base_model_name_or_path"] == base.name
    description.write_text(json.dumps(config | {"base_model_name_or_path": "/absent"}))
    message = _message(folder)
    assert message.startswith(f"{folder}: is an adapter for '/absent', which cannot be loaded (/absent: no such folder")
    assert message.endswith("--model BASE --adapter ADAPTER (merge-lora: --base BASE)")
    description.write_text(json.dumps(config | {"base_model_name_or_path": None}))
    assert _message(folder).endswith("names no base model; load the base and add the adapter to it")
    description.write_text("{")
    assert _message(folder).endswith("damaged, or does not name its base model")


@pytest.mark.fault("F16", "adapters", "an adapter folder that also holds config.json", "is an adapter")
def test_an_adapter_beside_the_configuration_of_its_base_is_an_adapter(save_tiny, tmp_path):
    base = load_model(save_tiny("llama-gqa"), dtype="float32", device="cpu")
    folder = _adapter(base.model, tmp_path / "adapter")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(base.name) / name, folder)
    assert load_model(folder, dtype="float32").adapter == str(folder)
    assert load_adapter(base, folder).adapter == str(folder)
    shutil.copy(Path(base.name) / "model.safetensors", folder)
    assert load_model(folder, dtype="float32").adapter is None  # a model, and what was merged into it


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig, PromptEncoderConfig])
@pytest.mark.fault("F04", "adapters", "prompt-tuning, prefix-tuning and p-tuning adapters", "refused in a line")
def test_adapters_of_virtual_tokens_are_refused(save_tiny, tmp_path, config):
    base = load_model(save_tiny("llama-gqa"), dtype="float32", device="cpu")
    adapted = get_peft_model(copy.deepcopy(base.model), config(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3))
    adapted.save_pretrained(tmp_path / "adapter")
    for load in (
        lambda: load_model(tmp_path / "adapter", dtype="float32"),
        lambda: load_adapter(base, tmp_path / "adapter"),
        lambda: load_model(adapted, tokenizer=base.tokenizer),
    ):
        with pytest.raises(ModelError, match="puts virtual tokens before the prompt"):
            load()


@pytest.mark.fault("X203", "adapters", "an activated LoRA, which is off once tokens are generated", "refused in a line")
def test_activated_lora_is_refused(make_tiny, plain_tokenizer):
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type=TaskType.CAUSAL_LM, alora_invocation_tokens=[65, 66])
    with pytest.raises(ModelError, match="is an activated LoRA"):
        load_model(get_peft_model(make_tiny("llama-gqa"), config), tokenizer=plain_tokenizer)


@pytest.mark.fault("F04", "adapters", "an IA3 adapter", "equal to PEFT's generate")
def test_an_ia3_adapter_generates_as_peft_does(save_tiny, tmp_path):
    base = load_model(save_tiny("llama-gqa"), dtype="float32", device="cpu")
    modules = ["k_proj", "down_proj"]
    config = IA3Config(task_type=TaskType.CAUSAL_LM, target_modules=modules, feedforward_modules=modules[1:])
    adapted = get_peft_model(copy.deepcopy(base.model), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "ia3" in name:
                parameter.normal_(1.0, 0.5, generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = load_adapter(base, tmp_path / "adapter")
    ids = _ids()
    theirs = adapted.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, eos_token_id=999
    )[:, ids.shape[1] :]
    decoding = Decoding(max_new_tokens=8, temperature=0, repetition_penalty=1)
    decoder = Decoder(loaded.model, loaded.tokenizer, decoding=decoding)
    vars(decoder.vocabulary).update(ends=frozenset())
    rows = [Row(str(n), 0, tuple(own)) for n, own in enumerate(ids.tolist())]
    assert [list(made.tokens) for made in decoder.decode(rows)] == theirs.tolist()
    assert not torch.allclose(_logits(loaded), _logits(base))


def test_adapter_of_another_model_is_refused(save_tiny, make_tiny, tmp_path, plain_tokenizer):
    folder = _adapter(make_tiny("llama-mha"), tmp_path / "adapter")
    for name, said in (
        ("llama-gqa", "Error(s) in loading state_dict for PeftModelForCausalLM: size mismatch for "),
        ("gpt2", "Target modules {"),
    ):
        with pytest.raises(ModelError) as caught:
            load_adapter(load_model(make_tiny(name), tokenizer=plain_tokenizer), folder)
        assert str(caught.value).startswith(f"{folder}: the adapter does not fit the model ({said}")
    with pytest.raises(ModelError, match="is not a PEFT adapter"):
        load_adapter(load_model(make_tiny("gpt2"), tokenizer=plain_tokenizer), tmp_path)


def test_adapter_with_missing_or_left_over_tensors_is_refused(make_tiny, tmp_path, plain_tokenizer):
    whole = make_tiny("llama-gqa")
    shorter = copy.deepcopy(whole)
    shorter.model.layers = shorter.model.layers[:2]
    shorter.config.num_hidden_layers = 2
    for trained, used, said in (
        (whole, shorter, "is an adapter for another model"),
        (shorter, whole, "missing adapter keys"),
    ):
        folder = _adapter(trained, tmp_path / said.replace(" ", "-"))
        with pytest.raises(ModelError, match=said):
            load_adapter(load_model(copy.deepcopy(used), tokenizer=plain_tokenizer), folder)


# -- the real model ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_embedded_model_loads_under_its_name(embedded_model):
    assert embedded_model.name == "embedded:smollm2-135m-instruct"
    assert embedded_model.n_parameters == 134_515_008
    assert embedded_model.model.config._name_or_path == embedded_model.name
    assert load_model(embedded_model.model).tokenizer_hash == embedded_model.tokenizer_hash


@pytest.mark.fault("X518", "hostile", "config.json of 10**30 layers, and of odd shapes", "one line, at once")
def test_odd_shapes_of_a_configuration_are_one_line(save_tiny):
    folder = save_tiny("llama-gqa")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"num_hidden_layers": 10**30}))
    assert _message(folder) == f"{folder}: config.json cannot be read (it names more than 2,000 layers)"
    odd = [{"architectures": 5}, {"auto_map": 5}, {"hidden_size": "x"}, {"rope_parameters": [1]}, {"model_type": None}]
    for text in ["[1]", "null", "[" * 100_000, '{"a": ', *(json.dumps(config | change) for change in odd)]:
        file.write_text(text)
        told = _message(folder)
        assert told.startswith(f"{folder}: ")
        assert "\n" not in told


@pytest.mark.fault("X519", "hostile", "adapter_config.json whose base is a number, or that is a list", "one line")
def test_odd_shapes_of_an_adapter_are_one_line(tmp_path):
    file = tmp_path / "adapter_config.json"
    for text in ('{"base_model_name_or_path": 5}', '{"base_model_name_or_path": ["a"]}', "[1]", "[" * 100_000, "null"):
        file.write_text(text)
        assert _message(tmp_path).startswith(f"{file}: ")
