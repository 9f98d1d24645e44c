"""Cached activations are those of each prompt alone, at the tokens that their labels name."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from leakmech.core.errors import ActivationError, ConfigError, ModelError
from leakmech.datasets.samples import CONDITIONS, PromptSet, Sample
from leakmech.mechanism.activations import cache as activations
from leakmech.mechanism.activations import run as engine
from leakmech.mechanism.activations import store as activation_store
from leakmech.mechanism.activations.cache import activation_moments, cache_activations
from leakmech.mechanism.activations.moments import RunningMoments
from leakmech.mechanism.activations.store import load_activations
from leakmech.mechanism.behaviour import sample_continuations
from leakmech.mechanism.bridge import bridge
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.models.sites import SITES
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Renderer

SAMPLES = PromptSet(
    "small",
    (
        Sample("a", "The café is", "We won.", "It was Tuesday.", "Our dog has died today."),
        Sample("b", "Her passion is", "The sun came out at last.", "A bus went by.", "I lost my keys."),
        Sample("c", "The train", "What joy!", "He sat.", "They wept for days… in vain."),
    ),
)
# TransformerLens's own names; what it calls `hook_resid_mid` is not a residual stream in every architecture, see below.
TRANSFORMER_LENS = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "z": "attn.hook_z",
    "mlp_post": "mlp.hook_post",
}


@pytest.fixture
def loaded(make_tiny, chat_tokenizer):
    """A tiny Llama."""
    return load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")


def sites_of(loaded):
    return [site for site in SITES if site != "resid_mid" or not layout_of(loaded.model).parallel]


def alone(loaded, sample, condition):
    """Token strings and hidden states [layer + 1, token, d_model] of one prompt without padding."""
    prompt = Renderer(loaded.tokenizer).prompt(sample, condition)
    ids = loaded.tokenizer(prompt.rendered, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        output = loaded.model(torch.tensor([ids]), output_hidden_states=True)
    return [loaded.tokenizer.decode([i]) for i in ids], torch.cat(output.hidden_states)


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# -- values --------------------------------------------------------------------------------------------------------


def test_padding_and_batches_do_not_change_a_value(tiny_loaded):
    sites, positions = sites_of(tiny_loaded), ["last_prompt", "stem", "injection_mean"]
    single = cache_activations(tiny_loaded, SAMPLES, sites=sites, positions=positions, batch_size=1)
    together = cache_activations(tiny_loaded, SAMPLES, sites=sites, positions=positions, batch_size=12)
    for site in sites:
        assert torch.equal(single[site].present, together[site].present)
        present = single[site].present
        # Per value 1e-5 of the size of the vectors of its layer.
        scale = single[site].values[present].square().mean().sqrt().clamp(min=1)
        close(together[site].values[present] / scale, single[site].values[present] / scale)


def test_the_stream_is_that_of_the_model_without_hooks(tiny_loaded):
    cache = cache_activations(tiny_loaded, SAMPLES, sites=["resid_pre", "resid_post"], batch_size=5)
    for row, sample in enumerate(SAMPLES):
        for condition in CONDITIONS:
            _, hidden = alone(tiny_loaded, sample, condition)
            before = cache["resid_pre"].matrix(condition=condition, position="last_prompt")[row]
            close(torch.from_numpy(before), hidden[:3, -1], 1e-4)
            after = cache["resid_post"].matrix(condition=condition, position="last_prompt")[row]
            close(torch.from_numpy(after)[:2], hidden[1:3, -1], 1e-4)


def test_sublayers_add_up_to_the_stream(tiny_loaded):
    sites = sites_of(tiny_loaded)
    cache = cache_activations(tiny_loaded, SAMPLES, sites=sites)
    before, after = cache["resid_pre"].values, cache["resid_post"].values
    close(before + cache["attn_out"].values + cache["mlp_out"].values, after, 3e-5)
    if "resid_mid" in sites:
        close(before + cache["attn_out"].values, cache["resid_mid"].values)
    assert torch.equal(before[..., 1:, :], after[..., :-1, :])


def test_values_agree_with_transformer_lens(tiny_loaded):
    """Everywhere but `resid_mid` of Gemma, where TransformerLens's name stands for the normalised input of the MLP."""
    sites = sites_of(tiny_loaded)
    if tiny_loaded.architecture.startswith("Gemma"):
        sites.remove("resid_mid")
    cache = cache_activations(tiny_loaded, SAMPLES, sites=sites, positions=["prompt"], conditions=["positive"])
    renderer = Renderer(tiny_loaded.tokenizer)
    prompts = locate([renderer.prompt(sample, "positive") for sample in SAMPLES], renderer)
    inputs = engine.padded(prompts, torch.device("cpu"))
    names = [f"blocks.{layer}.{TRANSFORMER_LENS[site]}" for site in sites for layer in range(3)]
    ids = inputs.pop("input_ids")
    with torch.inference_mode():
        _, theirs = bridge(tiny_loaded).run_with_cache(ids, names_filter=names, **inputs)
    kept = inputs["attention_mask"].bool()
    for site in sites:
        ours = cache[site].values[:, 0]
        for layer in range(3):
            expected = theirs[f"blocks.{layer}.{TRANSFORMER_LENS[site]}"]
            close(ours[:, :, layer][kept], expected.reshape(*ours[:, :, layer].shape)[kept], 1e-4)


def test_an_adapter_is_seen(make_tiny, chat_tokenizer):
    config = LoraConfig(target_modules=["o_proj"], r=2, init_lora_weights=False)
    plain = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    adapted = load_model(
        get_peft_model(make_tiny("llama-gqa"), config), tokenizer=chat_tokenizer, dtype="float32", device="cpu"
    )
    found = cache_activations(adapted, SAMPLES)["resid_post"].values
    assert (found - cache_activations(plain, SAMPLES)["resid_post"].values).abs().max() > 0.1
    # The layer's input is where the adapter cannot have acted yet.
    first = [
        cache_activations(model, SAMPLES, sites=["resid_pre"], layers=[0])["resid_pre"] for model in (adapted, plain)
    ]
    assert torch.equal(first[0].values, first[1].values)


def test_hooks_are_gone_afterwards_and_after_an_error(loaded, monkeypatch):
    cache_activations(loaded, SAMPLES)
    monkeypatch.setattr(engine.TokenPick, "__call__", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cache_activations(loaded, SAMPLES, sites=list(SITES))
    modules = list(loaded.model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


# -- positions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [True, False])
def test_positions_are_the_tokens_of_the_parts(chat, chat_tokenizer, plain_tokenizer):
    tokenizer = chat_tokenizer if chat else plain_tokenizer
    renderer = Renderer(tokenizer)
    for sample in SAMPLES:
        for condition in CONDITIONS:
            prompt = renderer.prompt(sample, condition)
            (located,) = locate([prompt], renderer)
            texts = {part: tokenizer.decode(located.ids[start:stop]) for part, (start, stop) in located.spans.items()}
            assert texts["stem"] == sample.stem
            assert texts["injection"] == (prompt.injection or "")
            assert texts["prompt"] == prompt.rendered


def test_a_stem_that_the_injection_repeats_is_found_at_the_end(plain_tokenizer):
    sample = Sample("x", "The end", "The end The end.", "The end", "The end")
    renderer = Renderer(plain_tokenizer)
    (located,) = locate([renderer.prompt(sample, "neutral")], renderer)
    assert located.spans["stem"] == (len(located) - 7, len(located))
    assert located.spans["injection"] == (len(located) - 15, len(located) - 8)


def test_labels_count_tokens_from_the_right(loaded):
    cache = cache_activations(loaded, SAMPLES, positions=["last_stem", "injection", "injection_end", "stem", "all"])
    found = cache["resid_post"].select(layers=0)
    for sample in SAMPLES:
        tokens, hidden = alone(loaded, sample, "negative")
        end = max(i for i, token in enumerate(tokens) if token == "<|im_end|>")
        # The byte tokenizer has one token a byte, and the stem is the last thing before <|im_end|>.
        n_stem, n_injection = len(sample.stem.encode()), len(sample.negative.encode())

        def at(position, sample=sample):
            one = found.select(samples=[sample.id])
            return torch.from_numpy(one.matrix(condition="negative", position=position)[0, 0])

        close(at("last_stem"), hidden[1, end - 1], 1e-4)
        close(at("stem:-2"), hidden[1, end - 2], 1e-4)
        close(at("injection_end"), hidden[1, end - n_stem - 2], 1e-4)
        close(at("injection:-1"), at("injection_end"))
        close(at(f"injection:-{n_injection}"), hidden[1, end - n_stem - 1 - n_injection], 1e-4)
        close(at("all:-1"), hidden[1, -1], 1e-4)


def test_means_are_over_the_tokens_of_the_part(loaded):
    cache = cache_activations(loaded, SAMPLES, positions=["injection", "injection_mean", "stem", "stem_mean"])
    found = cache["resid_post"]
    for part in ("injection", "stem"):
        tokens = found.select(positions=part)
        mean = tokens.values.nanmean(dim=2)
        expected = found.select(positions=f"{part}_mean").values[:, :, 0]
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_the_control_has_no_injection_and_says_so(loaded):
    found = cache_activations(loaded, SAMPLES, positions=["injection_end", "last_prompt"])["resid_post"]
    assert found.present[:, 0].tolist() == [[False, True]] * 3
    assert found.present[:, 1:].all()
    assert found.values[:, 0, 0].isnan().all()
    assert not found.values[:, 1:].isnan().any()
    with pytest.raises(ActivationError, match="sample 'a' has no position 'injection_end' under condition 'control'"):
        found.matrix(condition="control", position="injection_end")


def test_generated_tokens_are_read_again(loaded):
    continuations = sample_continuations(loaded, SAMPLES, conditions=["positive"])
    options = {"conditions": ["positive"], "positions": ["last_prompt", "generated", "generated_mean"]}
    found = cache_activations(loaded, SAMPLES, continuations=continuations, **options)["resid_post"]
    plain = cache_activations(loaded, SAMPLES, conditions=["positive"])["resid_post"]
    close(found.select(positions="last_prompt").values, plain.values, 1e-4)
    sample, tokens = SAMPLES.samples[1], continuations["b/positive"]
    assert 0 < len(tokens) <= 32
    ids = Renderer(loaded.tokenizer).token_ids(Renderer(loaded.tokenizer).prompt(sample, "positive").rendered)
    with torch.inference_mode():
        hidden = torch.cat(loaded.model(torch.tensor([[*ids, *tokens]]), output_hidden_states=True).hidden_states)
    close(found.select(samples=["b"], positions="generated:0").values[0, 0, 0, :2], hidden[1:3, len(ids)], 1e-4)
    close(
        found.select(samples=["b"], positions="generated_mean").values[0, 0, 0, 0], hidden[1, len(ids) :].mean(0), 1e-4
    )
    assert found.select(positions="generated").present.sum(dim=-1).flatten().tolist() == [
        len(continuations[f"{sample.id}/positive"]) for sample in SAMPLES
    ]


def test_a_template_that_changes_the_text_is_refused(make_tiny, chat_tokenizer):
    loaded = load_model(make_tiny("gpt2"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    tokenizer = type(chat_tokenizer)(tokenizer_object=chat_tokenizer.backend_tokenizer, pad_token="<|endoftext|>")
    tokenizer.chat_template = "{{ messages[-1]['content'] | upper }}"
    shouting = load_model(loaded.model, tokenizer=tokenizer, dtype="float32", device="cpu")
    with pytest.raises(ModelError, match=r"'a/control': the chat template changes its text.*prompt form 'plain'"):
        cache_activations(shouting, SAMPLES)


# -- storage -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(activation_store, "_SHARD_BYTES", 500)


def test_a_folder_holds_what_memory_would(loaded, tmp_path, small_shards):
    options = {"sites": ["z", "resid_post"], "positions": ["last_prompt", "stem"], "batch_size": 3}
    kept = cache_activations(loaded, SAMPLES, **options)
    cache_activations(loaded, SAMPLES, out=tmp_path / "acts", **options)
    found = load_activations(tmp_path / "acts")
    assert len(found.index.shards) > 2
    for site in ("z", "resid_post"):
        torch.testing.assert_close(found[site].values, kept[site].values, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(found[site].present, kept[site].present)
    assert found["z"].values.shape[-2:] == (4, 8)
    part = {"conditions": ["negative", "control"], "positions": "stem", "layers": [2, 0], "samples": ["c", "a"]}
    loaded_part, selected = found.load("z", **part), kept["z"].select(**part)
    torch.testing.assert_close(loaded_part.values, selected.values, rtol=0, atol=0, equal_nan=True)
    for field in ("samples", "conditions", "positions", "layers", "model_hash", "dataset_hash"):
        assert getattr(loaded_part, field) == getattr(selected, field)
    assert found["z"].model_hash == loaded.weights_hash
    assert found["z"].dataset_hash == SAMPLES.content_hash


def test_selection_names_labels(loaded):
    found = cache_activations(loaded, SAMPLES)["resid_post"]
    chosen = found.select(conditions=["negative", "positive"], layers=2)
    assert torch.equal(chosen.values[:, 1, :, 0], found.values[:, 1, :, 2])
    for axis, label in (("conditions", "positve"), ("layers", 3), ("positions", "stem"), ("samples", "z")):
        with pytest.raises(ConfigError, match=f"{axis}: {label!r} is not there"):
            found.select(**{axis: [label]})


def test_a_folder_in_use_or_unfinished_or_damaged_is_refused(loaded, tmp_path, small_shards):
    out = tmp_path / "acts"
    cache_activations(loaded, SAMPLES, out=out, batch_size=2)
    with pytest.raises(ActivationError, match="holds activations already"):
        cache_activations(loaded, SAMPLES, out=out)
    index = json.loads((out / "index.json").read_text())
    (out / index["shards"][1]).write_bytes(b"torn")
    with pytest.raises(ActivationError, match=r"shard-00001.safetensors: missing or damaged"):
        load_activations(out)["resid_post"]
    (out / "index.json").write_text(json.dumps(index | {"format_version": 9}))
    with pytest.raises(ActivationError, match="format version 9; this leakmech reads 1"):
        load_activations(out)
    (out / "index.json").unlink()
    with pytest.raises(ActivationError, match="is not finished"):
        load_activations(out)
    cache_activations(loaded, SAMPLES, out=out, layers=[1], batch_size=12)  # what was left of the other run is gone
    assert sorted(path.name for path in out.iterdir()) == ["index.json", "shard-00000.safetensors"]
    with pytest.raises(ActivationError, match="holds no activations"):
        load_activations(tmp_path / "nothing")


def test_too_little_memory_is_refused_before_the_model_runs(loaded, monkeypatch, tmp_path):
    monkeypatch.setattr(activation_store, "available_memory", lambda: 2000)
    monkeypatch.setattr(loaded.model, "forward", lambda **_: 1 / 0)
    with pytest.raises(ActivationError, match=r"need 0.00439 MiB of memory, 0.00191 MiB are free; pass out="):
        cache_activations(loaded, SAMPLES)
    with pytest.raises(ActivationError, match="covariance=False"):
        activation_moments(loaded, SAMPLES)
    monkeypatch.setattr(activations.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(ActivationError, match=r"acts: activations need 0.00439 MiB, 9.54e-06 MiB are free there"):
        cache_activations(loaded, SAMPLES, out=tmp_path / "acts")


def test_the_batch_is_halved_when_memory_runs_out(loaded, monkeypatch):
    expected = cache_activations(loaded, SAMPLES)["resid_post"].values
    forward, sizes = engine.ActivationRun._forward, []

    def limited(self, numbers):
        sizes.append(len(numbers))
        if len(numbers) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, numbers)

    monkeypatch.setattr(engine.ActivationRun, "_forward", limited)
    close(cache_activations(loaded, SAMPLES, batch_size=12)["resid_post"].values, expected)
    assert sizes == [12, 6, 3, 3, 3, 3]


# -- moments -------------------------------------------------------------------------------------------------------


def test_moments_are_those_of_all_activations(loaded):
    options = {"sites": ["resid_post", "z"], "positions": ["last_prompt", "injection_mean"]}
    values = cache_activations(loaded, SAMPLES, **options)
    moments = activation_moments(loaded, SAMPLES, batch_size=5, **options)
    for site in ("resid_post", "z"):
        every = values[site].values.double().flatten(start_dim=4)
        found = moments[site]
        for c, p in ((0, 0), (1, 0), (3, 1)):
            for layer in range(3):
                vectors = every[:, c, p, layer]
                close(found.mean[c, p, layer], vectors.mean(dim=0))
                close(found.covariance[c, p, layer], vectors.T.cov())
        assert found.count.tolist() == [[3, 0], [3, 3], [3, 3], [3, 3]]
        assert found.mean[0, 1].isnan().all()
    assert activation_moments(loaded, SAMPLES, covariance=False)["resid_post"].covariance is None


def test_moments_of_large_means_do_not_cancel():
    vectors = 1e6 + torch.randn(1000, 1, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    running = RunningMoments((1, 1, 1), 3, covariance=True)
    for part in vectors.split(7):
        running.add(part, torch.ones(len(part), 1, dtype=torch.bool), torch.zeros(len(part), dtype=torch.long))
    _, mean, covariance = running.finish()
    torch.testing.assert_close(mean[0, 0, 0], vectors[:, 0, 0].mean(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(covariance[0, 0, 0], (vectors[:, 0, 0] - 1e6).T.cov(), rtol=1e-7, atol=1e-9)


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sites": ["resid_pst"]}, ConfigError, "unknown site 'resid_pst'; did you mean 'resid_post'"),
        ({"sites": []}, ConfigError, "sites: name at least one"),
        ({"sites": "z"}, ConfigError, "sites: give a list of names"),
        ({"layers": [0, 3]}, ModelError, "layer 3: this model has 3 layers, 0 to 2"),
        ({"layers": [1, 1]}, ConfigError, "layers: name at least one, and each once"),
        ({"positions": ["last_promt"]}, ConfigError, "unknown position 'last_promt'; did you mean 'last_prompt'"),
        ({"positions": ["generated"]}, ConfigError, "no prompt has 'generated'; give continuations="),
        ({"positions": ["injection"], "conditions": ["control"]}, ConfigError, "add a condition with an injection"),
        ({"conditions": ["sad"]}, ConfigError, "unknown condition 'sad'"),
        ({"continuations": {}}, ConfigError, "none of prompt 'a/control'"),
        ({"batch_size": 0}, ConfigError, "batch_size must be 'auto' or at least 1"),
    ],
)
def test_bad_requests_are_refused(loaded, options, error, message):
    with pytest.raises(error, match=message):
        cache_activations(loaded, SAMPLES, **options)


def test_a_model_without_a_middle_of_its_stream_is_refused(make_tiny, chat_tokenizer):
    loaded = load_model(make_tiny("gpt-neox"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    with pytest.raises(ModelError, match="'resid_mid': gpt_neox runs attention and MLP in parallel"):
        cache_activations(loaded, SAMPLES, sites=["resid_mid"])


def test_prompts_longer_than_the_model_reads_are_refused(make_tiny, chat_tokenizer):
    long = PromptSet("long", (Sample("a", "s" * 1100, "A.", "B.", "C."),))
    with pytest.raises(ModelError, match=r"tokens; the model reads at most 1024"):
        cache_activations(load_model(make_tiny("gpt2"), tokenizer=chat_tokenizer), long)
