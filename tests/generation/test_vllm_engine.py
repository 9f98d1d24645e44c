"""The engine on vLLM, against a FAKE of vLLM (`fake_vllm.py`): requests, cutting, adapters, folders, refusals."""

import atexit
import gc
import json
import sys
from dataclasses import replace
from pathlib import Path

import fake_vllm
import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model

from leakmech.core.errors import ConfigError, GenerationError, ModelError
from leakmech.core.seeds import request_seed
from leakmech.generation.contrast import CONTRASTS
from leakmech.generation.decode import Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.hf_engine import HFEngine
from leakmech.generation.vllm_engine import BATCH_INVARIANT, VLLMEngine
from leakmech.interventions.component_edits import ScaleHeads
from leakmech.interventions.fold import fold
from leakmech.interventions.hooks import apply
from leakmech.models.load import load_adapter, load_model

GREEDY = Decoding(max_new_tokens=24, temperature=0.0)
SAMPLED = Decoding(max_new_tokens=12, temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.2)
PROMPTS = ["Her passion is", "I lost my keys on the way here. The meeting ended with", "We"]
WORDS = "She is glad. It rains"


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.delenv(BATCH_INVARIANT, raising=False)
    return fake_vllm.install(monkeypatch)


@pytest.fixture
def folder(save_tiny) -> Path:
    return save_tiny("llama-gqa")


@pytest.fixture
def loaded(folder):
    return load_model(folder, dtype="float32", device="cpu")


@pytest.fixture
def adapter(make_tiny, tmp_path) -> Path:
    """A LoRA adapter of rank 4 that changes the model a lot."""
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        get_peft_model(make_tiny("llama-gqa"), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture
def rows(chat_tokenizer):
    return [Row(f"p{i}", g, tuple(chat_tokenizer(p)["input_ids"])) for i, p in enumerate(PROMPTS) for g in range(3)]


def outputs(engine, rows, decoding=SAMPLED, **options):
    return {
        (g.prompt_id, g.generation): (g.tokens, g.text, g.finish_reason)
        for ended in engine.complete(rows, decoding, **options)
        for g in ended
    }


@pytest.fixture
def ids(chat_tokenizer):
    """Token ids of a text, one a letter."""
    return lambda text: chat_tokenizer(text)["input_ids"]


def scripted(tokens, *, end=258):
    """A script that says `tokens`, goes on where an earlier request stopped, and then ends the turn."""

    def script(prompt, params):
        said = next(n for n in range(len(tokens), -1, -1) if prompt[len(prompt) - n :] == tokens[:n])
        answer = [*tokens[said:], end][: params.max_tokens]
        return answer, "stop" if answer[-1] == end else "length"

    return script


# -- what is asked and how it is read ----------------------------------------------------------------------------------


def test_greedy_generations_are_those_of_the_other_engine(fake, loaded, rows):
    for stop in (None, lambda _, text: len(text) > 9):
        expected = outputs(HFEngine.of(loaded), rows, GREEDY, stop=stop)
        assert outputs(VLLMEngine.of(loaded), rows, GREEDY, stop=stop) == expected
    assert {reason for *_, reason in expected.values()} & {"sentence", "length"}


def test_every_row_is_one_seeded_request_with_our_ids_and_settings(fake, loaded, rows):
    outputs(VLLMEngine.of(loaded), rows, seed=5)
    assert [ids for ids, *_ in fake.requests] == [list(row.prompt_tokens) for row in rows]
    first = fake.requests[0][1]
    asked = (first.temperature, first.top_k, first.top_p, first.repetition_penalty, first.max_tokens, first.n)
    assert asked == (0.7, 20, 0.8, 1.2, 12, 1)
    assert first.stop_token_ids == [256, 258]  # the model's end of text, and the template's end of a turn
    assert not first.detokenize
    assert [own.seed for _, own, _ in fake.requests] == [request_seed(5, row.prompt_id, row.generation) for row in rows]
    assert len({own.seed for _, own, _ in fake.requests}) == len(rows)


def test_draws_do_not_depend_on_chunks_or_on_what_is_done(fake, loaded, rows):
    engine = VLLMEngine.of(loaded)
    expected = outputs(engine, rows, seed=1)
    assert len({tokens for tokens, *_ in expected.values()}) > 6
    sizes = [len(ended) for ended in engine.complete(rows, SAMPLED, seed=1, batch_size=4)]
    assert sizes == [4, 4, 1]
    assert outputs(engine, rows, seed=1, batch_size=2) == expected
    done = {(row.prompt_id, row.generation) for row in rows[:5]}
    fake.calls.clear()
    assert outputs(engine, rows, seed=1, done=done) == {key: own for key, own in expected.items() if key not in done}
    assert len(fake.requests) == 4
    assert outputs(engine, rows, seed=2) != expected
    assert len(fake.made) == 1


def test_many_seeded_requests_end_on_a_cpu_too(fake, loaded, rows):
    fake.script = lambda prompt, params: ([258], "stop")
    long = rows[0].prompt_tokens * (fake_vllm.CPU_TOKENS_AT_ONCE // len(rows[0].prompt_tokens) // 100 + 1)
    many = [Row(f"p{n}", 0, long) for n in range(101)]
    assert len(outputs(VLLMEngine.of(loaded), many)) == 101


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_a_cpu_is_told_how_to_read_prompts_and_how_much_memory_to_take(fake, loaded, rows, monkeypatch, device):
    monkeypatch.setattr(sys.modules["vllm.platforms"].current_platform, "device_type", device)
    outputs(VLLMEngine.of(loaded), rows)
    (told,) = fake.made
    assert told.get("enable_chunked_prefill", True) is (device == "cuda")
    assert (0 < told.get("kv_cache_memory_bytes", 0) < psutil.virtual_memory().total / 2) is (device == "cpu")


def test_processes_of_vllm_end_before_python_waits_for_them(fake, loaded, rows, monkeypatch):
    at_end = []
    monkeypatch.setattr(atexit, "register", lambda *called: at_end.append(called))
    engine = VLLMEngine.of(loaded)
    outputs(engine, rows)
    ((shut_down, core),) = at_end
    shut_down(core)
    assert fake.shut_down == 1
    del engine
    gc.collect()
    shut_down(core)  # an engine that is gone has stopped its processes itself
    assert fake.shut_down == 1


def test_rows_of_a_lower_block_come_first(fake, loaded, rows):
    mixed = [replace(row, block=-i) for i, row in enumerate(rows)]
    ended = [made for part in VLLMEngine.of(loaded).complete(mixed, SAMPLED, batch_size=1) for made in part]
    assert [(g.prompt_id, g.generation) for g in ended] == [(row.prompt_id, row.generation) for row in reversed(rows)]


def test_an_answer_is_cut_where_its_row_ends(fake, loaded, rows, ids):
    fake.script = scripted(ids(WORDS))
    for decoding, stop, text, reason in (
        (Decoding(), lambda _, text: ". It" in text, "She is glad. It", "sentence"),
        (Decoding(), None, WORDS, "stop"),
        (Decoding(max_new_tokens=3), None, "She", "length"),
    ):
        found = outputs(VLLMEngine.of(loaded), rows[:1], decoding, stop=stop)
        assert found == {("p0", 0): (tuple(ids(text)), text, reason)}


def test_an_end_token_that_is_left_out_of_the_ids_still_ends_the_row(fake, loaded, rows, ids):
    fake.script = lambda prompt, params: (ids("Yes"), "stop")
    assert outputs(VLLMEngine.of(loaded), rows[:1]) == {("p0", 0): (tuple(ids("Yes")), "Yes", "stop")}


def test_reasoning_has_a_budget_of_its_own_and_the_answer_follows_in_another_request(fake, loaded, rows, ids):
    fake.script = scripted(ids("<think>glad or sad?</think>Glad indeed"))
    decoding = Decoding(max_new_tokens=10, reasoning_tokens=100)
    said = "<think>glad or sad?</think>Glad indee"  # ten tokens of answer
    found = outputs(VLLMEngine.of(loaded), rows[:1], decoding)
    assert found == {("p0", 0): (tuple(ids(said)), said, "length")}
    assert [own.max_tokens for _, own, _ in fake.requests] == [10, 100]  # 90 of reasoning are left, and the answer's 10
    assert fake.requests[1][0] == [*rows[0].prompt_tokens, *ids(said[:10])]
    assert [own.seed for _, own, _ in fake.requests] == [request_seed(0, "p0", 0), request_seed(0, "p0", 0, 10)]
    cut = outputs(VLLMEngine.of(loaded), rows[:1], replace(decoding, reasoning_tokens=12))
    assert cut["p0", 0][::2] == (tuple(ids(said[:12])), "length")


def test_a_request_that_vllm_gives_up_is_an_error_with_the_name_of_its_prompt(fake, loaded, rows):
    fake.script = lambda prompt, params: ([1, 2], "abort")
    with pytest.raises(GenerationError, match=r"prompt 'p0': vLLM gave up on it \(abort\)"):
        outputs(VLLMEngine.of(loaded), rows)
    fake.script = lambda prompt, params: ([], "length")
    with pytest.raises(GenerationError, match="prompt 'p0': vLLM returned no token"):
        outputs(VLLMEngine.of(loaded), rows)


def test_an_error_of_vllm_is_one_line(fake, loaded, rows, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("Engine core\ninitialization failed")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", broken)
    with pytest.raises(ModelError) as caught:
        outputs(VLLMEngine.of(loaded), rows)
    assert str(caught.value) == f"{loaded.name}: vLLM cannot serve it (Engine core initialization failed)"


def test_a_prompt_without_room_for_its_answer_is_refused_by_name(fake, loaded, rows):
    long = replace(rows[0], prompt_tokens=rows[0].prompt_tokens * 80)
    with pytest.raises(
        ModelError, match=r"prompt 'p0': has 1120 tokens and up to 12 are to come; vLLM has room for 1024"
    ):
        outputs(VLLMEngine.of(loaded), [*rows[1:], long])
    assert fake.requests == []


def test_the_clock_counts_seconds_and_tokens(fake, loaded, rows):
    engine = VLLMEngine.of(loaded)
    made = outputs(engine, rows, GREEDY)
    assert 0 < engine.clock.forward < engine.clock.total
    assert engine.clock.row_steps >= sum(len(tokens) for tokens, *_ in made.values())


# -- what it cannot do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decoding", "message"),
    [
        (Decoding(no_repeat_ngrams=3), "no rule against repeated n-grams; set no_repeat_ngrams to 0"),
        (Decoding(temperature=2.5), "temperatures from 0.01 to 2, or greedily at 0; found 2.5"),
        (Decoding(temperature=0.001), "temperatures from 0.01 to 2, or greedily at 0; found 0.001"),
    ],
)
def test_decoding_that_vllm_does_otherwise_is_refused(fake, loaded, rows, decoding, message):
    with pytest.raises(ConfigError, match=f"engine 'vllm': .*{message}"):
        outputs(VLLMEngine.of(loaded), rows, decoding)
    assert fake.made == []


def test_hooks_and_contrast_are_refused_and_the_fold_is_named(fake, loaded, rows):
    with apply(loaded.model, ()) as applied, pytest.raises(ConfigError, match=r"as hooks .fold them .* --fold"):
        outputs(VLLMEngine.of(loaded), rows, applied=applied)
    with pytest.raises(ConfigError, match="contrastive decoding"):
        outputs(VLLMEngine.of(loaded), rows, combination=CONTRASTS["placebo"])


def test_a_missing_package_is_a_line_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(
        ConfigError, match=r"engine 'vllm': vLLM cannot be imported .*pip install -e \"\.\[vllm\]\""
    ) as caught:
        VLLMEngine.placement(device="auto", dtype="auto")
    assert "\n" not in str(caught.value)


def test_our_own_copy_is_loaded_in_main_memory_and_other_devices_are_refused(fake):
    assert VLLMEngine.placement(device="cpu", dtype="bf16") == ("cpu", "bfloat16")
    with pytest.raises(ConfigError, match=r"runs on cpu, .* not on 'cuda:1'; .*CUDA_VISIBLE_DEVICES"):
        VLLMEngine.placement(device="cuda:1", dtype="auto")


def test_identity_names_version_device_and_batch_invariance(fake, loaded, monkeypatch):
    own = {"engine": "vllm", "engine_version": fake_vllm.VERSION, "engine_device": "fake device"}
    assert VLLMEngine.of(loaded).identity() == own | {"batch_invariant": "no"}
    monkeypatch.setenv(BATCH_INVARIANT, "1")
    assert VLLMEngine.of(loaded).identity() == own | {"batch_invariant": "yes"}


# -- adapters and folders ----------------------------------------------------------------------------------------------


def test_a_model_is_served_from_its_folder(fake, loaded, folder, rows):
    outputs(VLLMEngine.of(loaded), rows)
    (made,) = fake.made
    assert (made["model"], made["dtype"], made["max_model_len"]) == (str(folder), "float32", 1024)
    assert made["skip_tokenizer_init"]
    assert not made["trust_remote_code"]


def test_an_adapter_goes_along_as_a_lora_request(fake, loaded, adapter, rows):
    adapted = load_adapter(loaded, adapter)
    expected = outputs(HFEngine.of(adapted), rows, GREEDY)
    assert outputs(VLLMEngine.of(adapted), rows, GREEDY) == expected
    assert expected != outputs(HFEngine.of(loaded), rows, GREEDY)
    assert (fake.made[0]["enable_lora"], fake.made[0]["max_lora_rank"]) == (True, 8)
    assert {own.lora_path for *_, own in fake.requests} == {str(adapter)}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"use_dora": True}, r"it has use_dora\)"),
        ({"modules_to_save": ["lm_head"]}, r"it has modules_to_save\)"),
        ({"rank_pattern": {"q_proj": 2}}, r"it has rank_pattern\)"),
        ({"bias": "all"}, r"it has biases\)"),
        ({"init_lora_weights": "pissa"}, r"its initialisation, pissa, changes the base\)"),
        ({"r": 600}, r"its rank is 600, and the largest is 512\)"),
        ({"peft_type": "IA3"}, r"its type is IA3\)"),
    ],
)
def test_an_adapter_that_vllm_cannot_serve_is_refused_and_merging_is_named(fake, loaded, adapter, changed, reason):
    adapted = load_adapter(loaded, adapter)
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(
        ModelError, match=rf"cannot serve this adapter \({reason}; merge it .*leakmech merge-lora"
    ) as caught:
        VLLMEngine.of(adapted)
    assert "\n" not in str(caught.value)
    assert fake.made == []


def test_an_adapter_in_memory_is_refused(fake, loaded, make_tiny, chat_tokenizer, adapter):
    in_memory = load_adapter(load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer), adapter)
    with pytest.raises(ModelError, match="reads an adapter and its base from their folders"):
        VLLMEngine.of(in_memory)


def test_folded_weights_are_served_from_a_folder_for_as_long_as_vllm_reads_them(fake, loaded, rows):
    edit = ScaleHeads(["L0H1", "L1H2"], scales=[0.0, 3.0])
    folded = replace(loaded, model=fold(loaded.model, edit), folder=None)
    assert outputs(VLLMEngine.of(folded), rows, GREEDY) == outputs(HFEngine.of(folded), rows, GREEDY)
    assert outputs(VLLMEngine.of(folded), rows, GREEDY) != outputs(HFEngine.of(loaded), rows, GREEDY)
    assert not Path(fake.made[0]["model"]).exists()


def test_a_merged_adapter_is_a_model_as_any(fake, loaded, adapter, rows, tmp_path):
    adapted = load_adapter(loaded, adapter)
    expected = outputs(HFEngine.of(adapted), rows, GREEDY)
    adapted.model.merge_and_unload().save_pretrained(tmp_path / "merged")
    loaded.tokenizer.save_pretrained(tmp_path / "merged")
    merged = load_model(tmp_path / "merged", dtype="float32", device="cpu")
    assert outputs(VLLMEngine.of(merged), rows, GREEDY) == expected
    assert fake.made[0]["model"] == str(tmp_path / "merged")
