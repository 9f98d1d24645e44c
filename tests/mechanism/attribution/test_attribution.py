"""Attribution and patching against forward passes with the component exchanged, on every architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mechanism_samples import SAMPLES, direction
from peft import IA3Config, LoraConfig, get_peft_model

from leakmech.core.errors import ConfigError, DirectionError, ModelError
from leakmech.datasets.samples import PromptSet
from leakmech.mechanism.activations.run import padded
from leakmech.mechanism.attribution.direct import decompose, direct_attribution, magnitudes
from leakmech.mechanism.attribution.gradients import attribute, attribute_pairs, parse_target
from leakmech.mechanism.attribution.paired_run import PairedRun
from leakmech.mechanism.attribution.pairs import make_pairs, polar_endings
from leakmech.mechanism.attribution.patching import patch_components, patch_heads, patch_stream, patch_sublayers
from leakmech.mechanism.attribution.replay import Patch, patched
from leakmech.mechanism.behaviour import sample_behaviour
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.components import Component
from leakmech.models.gated import GatedLoraConfig
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.prompts.render import Prompting, Renderer

CONTINUATIONS = {
    "a": {"positive": [(10, 20, 30), (40,)], "negative": [(50, 60)]},
    "b": {"positive": [(70,)], "negative": [(80, 90), (100, 101)]},
    "c": {"positive": [], "negative": [(1, 2)]},
}
LAYER, HEAD = 1, 2


def pairs_of(loaded, **options):
    return make_pairs(SAMPLES, Renderer(loaded.tokenizer), **options)


def targets(loaded):
    return [("direction", direction(loaded), None), ("behaviour", "behaviour", polar_endings(CONTINUATIONS))]


@torch.no_grad()
def value_alone(loaded, located, target) -> float:
    """The target of one sequence, from a whole forward pass of the Hugging Face model without padding."""
    ids = torch.from_numpy(located.ids.astype(np.int64))[None]
    output = loaded.model(ids, output_hidden_states=True)
    if isinstance(target, Direction):
        # hidden_states[-1] is after the final norm, so a direction in the last layer is read by a hook.
        seen = []
        handle = (
            layout_of(loaded.model)
            .blocks[target.layer]
            .block.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        )
        loaded.model(ids)
        handle.remove()
        return float(seen[0][0, located.spans["prompt"][1] - 1] @ target.vector)
    start, stop = located.spans["generated"]
    log_p = output.logits[0].log_softmax(-1)
    return float(np.mean([log_p[t - 1, int(located.ids[t])] for t in range(start, stop)]))


# -- replay ------------------------------------------------------------------------------------------------------------


def test_targets_of_a_batch_equal_those_of_each_sequence_alone(tiny_loaded):
    for _, target, endings in targets(tiny_loaded):
        pairs = pairs_of(tiny_loaded, endings=endings)
        run = PairedRun(tiny_loaded, pairs, parse_target(target, tiny_loaded), sites=["z"])
        for row, pair in enumerate(pairs):
            assert float(run.clean.values[row]) == pytest.approx(value_alone(tiny_loaded, pair.clean, target), abs=1e-3)
            assert float(run.corrupt.values[row]) == pytest.approx(
                value_alone(tiny_loaded, pair.corrupt, target), abs=1e-3
            )


@pytest.mark.parametrize("start", [0, 1, 2])
def test_running_again_from_any_layer_changes_nothing(tiny_loaded, start):
    run = PairedRun(tiny_loaded, pairs_of(tiny_loaded), parse_target(direction(tiny_loaded), tiny_loaded), sites=["z"])
    with torch.no_grad():
        again = run.clean.replay.run(start=start)
    torch.testing.assert_close(again, run.clean.replay.streams[-1], atol=1e-4, rtol=1e-4)


def test_patching_by_replay_equals_patching_in_a_whole_forward_pass(tiny_loaded):
    pairs = pairs_of(tiny_loaded)
    target = parse_target(direction(tiny_loaded), tiny_loaded)
    run = PairedRun(tiny_loaded, pairs, target, sites=["z"])
    found = patch_components(tiny_loaded, pairs, target, [((LAYER, HEAD), [Component(LAYER, "head", HEAD)])])
    layout = layout_of(tiny_loaded.model)
    expected = 0.0
    for row, pair in enumerate(pairs):
        n = pair.n_shared
        inputs = padded([pair.corrupt], tiny_loaded.device)
        width = inputs["input_ids"].shape[1]
        values = torch.zeros(1, width, layout.n_heads * layout.d_head)
        values[0, -n:] = run.clean.activations["z", LAYER][row, -n:]
        where = torch.zeros_like(values, dtype=torch.bool)
        where[0, -n:, layout.head(HEAD)] = True
        last = []
        handle = layout.blocks[-1].block.register_forward_hook(
            lambda _, __, out, last=last: last.append(out[0] if isinstance(out, tuple) else out)
        )
        with patched(layout, [Patch("z", LAYER, values, where)]), torch.no_grad():
            tiny_loaded.model(**inputs)
        handle.remove()
        change = float(target.values(last[0], [pair.corrupt])) - float(run.corrupt.values[row])
        expected += pair.weight * change
    assert float(found.effects.sum()) == pytest.approx(expected, abs=1e-3)


# -- patching ----------------------------------------------------------------------------------------------------------


def test_patching_everything_at_the_shared_tokens_restores_the_whole_shift(tiny_loaded):
    layout = layout_of(tiny_loaded.model)
    # GPT-2's tokens carry their absolute position, which differs between prompts of different length.
    equalised = layout.architecture == "gpt2"
    for _, target, endings in targets(tiny_loaded):
        pairs = pairs_of(tiny_loaded, endings=endings, equalised=equalised)
        all_heads = [Component(x, "head", h) for x in range(layout.n_layers) for h in range(layout.n_heads)]
        for side in ("corrupt", "clean"):
            found = patch_components(
                tiny_loaded, pairs, parse_target(target, tiny_loaded), [((0, "all"), all_heads)], side=side
            )
            assert found.scores()[0] == pytest.approx(1, abs=1e-3)


def test_stream_of_the_injection_at_the_start_carries_all_and_at_the_end_nothing(tiny_loaded):
    pairs = pairs_of(tiny_loaded, equalised=True)
    found = patch_stream(tiny_loaded, pairs, parse_target(direction(tiny_loaded), tiny_loaded)).to_frame(
        column="region"
    )
    score = found.set_index(["layer", "region"])["score"]
    assert score[0, "injection"] == pytest.approx(1, abs=1e-3)
    assert score[0, "last"] == pytest.approx(0, abs=1e-3)
    assert abs(score[0, "stem"]) < 1e-3
    assert len(found) == 3 * 4


@pytest.mark.parametrize(
    ("form", "regions"),
    [("plain", ["injection", "stem", "last"]), ("prefill", ["injection", "turn", "stem", "last"])],
)
def test_only_regions_that_prompts_have_are_patched(make_tiny, chat_tokenizer, form, regions):
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)
    pairs = make_pairs(SAMPLES, Renderer(loaded.tokenizer, Prompting(form)), equalised=True)
    target = parse_target(direction(loaded), loaded)
    found = patch_stream(loaded, pairs, target, layers=[1]).to_frame(column="region")
    assert sorted(found["region"]) == sorted(regions)
    assert (found.loc[found["region"] != "injection", "score"] != 0).all()
    with pytest.raises(ConfigError, match="region 'tail': no prompt has it"):
        patch_stream(loaded, pairs, target, regions=["tail"])


def test_patches_above_the_target_change_nothing(tiny_loaded):
    pairs = pairs_of(tiny_loaded, equalised=True)
    layer_one = direction(tiny_loaded, layer=1)
    found = patch_stream(tiny_loaded, pairs, parse_target(layer_one, tiny_loaded), layers=[2], regions=["last"])
    assert found.scores()[0] == 0


def test_sublayers_and_heads_are_labelled_and_ranked(tiny_loaded):
    pairs = pairs_of(tiny_loaded)
    target = parse_target(direction(tiny_loaded), tiny_loaded)
    frame = patch_sublayers(tiny_loaded, pairs, target).to_frame(column="sublayer")
    assert set(frame["sublayer"]) == {"attn", "mlp"}
    assert frame["score"].abs().is_monotonic_decreasing
    assert list(frame["rank"]) == list(range(1, 7))


# -- attribution patching ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["corrupt", "clean"])
def test_first_order_effects_are_the_slope_of_patching(tiny_loaded, side):
    """Moving a head a thousandth of the way to the other run changes the target by a thousandth of its effect."""
    pairs = pairs_of(tiny_loaded)
    target = parse_target(direction(tiny_loaded), tiny_loaded)
    found = attribute_pairs(tiny_loaded, pairs, target, side=side)
    run = PairedRun(tiny_loaded, pairs, target, sites=["z"])
    layout, changed = run.layout, run.side(side)
    step = 1e-3 if side == "corrupt" else -1e-3
    for layer, head in ((0, 0), (1, 2), (2, 3)):
        where = torch.zeros(layout.n_heads * layout.d_head, dtype=torch.bool)
        where[layout.head(head)] = True
        moved = changed.activations["z", layer] + step * run.difference("z", layer)
        with patched(layout, [Patch("z", layer, moved, run.shared & where)]), torch.no_grad():
            value = run.value(changed.replay.run(start=layer, stop=run.stop), changed)
        slope = float((run.weights * (value - changed.values)).double().sum()) / step
        scale = float(np.abs(found.heads.sum(axis=0)).max())
        assert found.heads[:, layer, head].sum() == pytest.approx(slope, abs=0.02 * scale)


def test_heads_of_a_layer_add_up_to_its_attention_sublayer(tiny_loaded):
    """Both are first order, and without a norm after the sublayer its output is linear in z."""
    if layout_of(tiny_loaded.model).blocks[0].attention_post_norm is not None:
        pytest.skip("a norm stands between z and the sublayer's output")
    found = attribute(tiny_loaded, SAMPLES, target=direction(tiny_loaded))
    np.testing.assert_allclose(found.heads.sum(axis=2), found.sublayers["attn"], atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(found.neurons.sum(axis=(0, 2)), found.sublayers["mlp"].sum(axis=0), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", ["attribution_patching", "graddrop", "integrated_gradients"])
def test_batches_and_padding_do_not_change_effects(tiny_loaded, method):
    for _, target, endings in targets(tiny_loaded):
        options = {"method": method, "target": target, "endings": endings, "steps": 2}
        alone = attribute(tiny_loaded, SAMPLES, batch_size=1, **options)
        together = attribute(tiny_loaded, SAMPLES, batch_size=16, **options)
        scale = np.abs(alone.heads).max()
        np.testing.assert_allclose(together.heads / scale, alone.heads / scale, atol=1e-4)
        np.testing.assert_allclose(together.neurons / scale, alone.neurons / scale, atol=1e-4)


def test_effects_above_the_target_are_zero(tiny_loaded):
    found = attribute(tiny_loaded, SAMPLES, target=direction(tiny_loaded, layer=1))
    assert np.abs(found.heads[:, :2]).max() > 0
    assert np.abs(found.heads[:, 2]).max() == 0


def test_integrated_gradients_of_all_heads_add_up_better_with_more_steps(make_tiny, chat_tokenizer):
    """What the attention of layer 0 changes in the target after that layer, against patching it."""
    loaded = load_model(make_tiny("llama-mha"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    one_layer = direction(loaded, layer=0)
    pairs = pairs_of(loaded, equalised=True)
    exact = patch_sublayers(loaded, pairs, parse_target(one_layer, loaded), layers=[0]).effects[:, 0].sum()
    errors = []
    for steps in (1, 32):
        found = attribute(loaded, SAMPLES, target=one_layer, method="integrated_gradients", steps=steps)
        errors.append(abs(found.sublayers["attn"].sum() - exact))
    assert errors[1] <= errors[0] + 1e-6


def test_graddrop_averages_absolute_effects_over_dropped_layers(make_tiny, chat_tokenizer):
    loaded = load_model(make_tiny("llama-mha"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    found = attribute(loaded, SAMPLES, target=direction(loaded, layer=2), method="graddrop")
    plain = attribute(loaded, SAMPLES, target=direction(loaded, layer=2))
    assert (found.heads >= 0).all()
    # Heads of the last layer reach the target directly (through its MLP at most): dropping the other two layers leaves
    # them as they are, and dropping their own layer leaves nothing, so the mean over L-1 = 2 is the plain effect.
    assert (found.heads[:, 2] >= np.abs(plain.heads[:, 2]) - 1e-5).all()


# -- direct attribution ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["direction", "behaviour"])
def test_parts_add_up_to_the_projection_of_the_stream(tiny_loaded, kind):
    samples = PromptSet("two", SAMPLES.samples[:2])
    renderer = Renderer(tiny_loaded.tokenizer)
    prompts = [pair.clean for pair in make_pairs(samples, renderer)]
    target = direction(tiny_loaded) if kind == "direction" else CONTINUATIONS
    parts = decompose(tiny_loaded, prompts, target)
    layout = layout_of(tiny_loaded.model)
    total = parts.embedding + parts.attn.sum(1) + parts.mlp.sum(1) + parts.constant
    scale = float(parts.total.abs().max())
    torch.testing.assert_close(total / scale, parts.total / scale, atol=1e-4, rtol=1e-4)
    if kind == "direction":
        expected = [value_alone(tiny_loaded, prompt, target) for prompt in prompts]
    else:
        expected = []
        for prompt in prompts:
            with torch.no_grad():
                logits = tiny_loaded.model(torch.from_numpy(prompt.ids.astype(np.int64))[None]).logits[0, -1]
            own = CONTINUATIONS[prompt.sample]
            first = {name: [tokens[0] for tokens in own[name]] for name in own}
            expected.append(float(logits[first["positive"]].mean() - logits[first["negative"]].mean()))
    np.testing.assert_allclose(parts.total.numpy(), expected, atol=1e-3 * max(1, scale))
    has_bias = getattr(layout.blocks[0].heads_out, "bias", None) is not None
    if not has_bias:
        torch.testing.assert_close(parts.heads.sum(-1), parts.attn, atol=1e-4 * scale, rtol=1e-4)


def test_direct_effects_of_the_last_layer_are_those_of_patching_it(make_tiny, chat_tokenizer):
    """A head of the last layer acts on the target through the last MLP too; with that MLP silent, only directly."""
    loaded = load_model(make_tiny("llama-mha"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    layout = layout_of(loaded.model)
    with torch.no_grad():
        layout.blocks[2].neurons_out.weight.zero_()
    loaded = load_model(loaded.model, tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    target = direction(loaded)
    direct = direct_attribution(loaded, SAMPLES, target=target)
    exact = patch_heads(loaded, pairs_of(loaded), parse_target(target, loaded), layers=[2])
    np.testing.assert_allclose(direct.heads[:, 2].sum(axis=0), exact.effects.sum(axis=0), atol=1e-3)
    assert direct.shifts.sum() == pytest.approx(exact.shifts.sum(), abs=1e-3)


def under_adapter(make_tiny, tokenizer, config, *, name="llama-gqa", merged=False):
    adapted = get_peft_model(make_tiny(name), config)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model = adapted.merge_and_unload() if merged else adapted.eval()
    return load_model(model, tokenizer=tokenizer, dtype="float32", device="cpu")


@pytest.mark.parametrize("kind", ["direction", "behaviour"])
@pytest.mark.parametrize(
    ("name", "modules"), [("llama-gqa", ["o_proj", "down_proj", "lm_head"]), ("gpt2", ["attn.c_proj", "mlp.c_proj"])]
)
def test_parts_under_an_adapter_are_those_of_the_merged_model(make_tiny, chat_tokenizer, name, modules, kind):
    def decomposed(merged):
        config = LoraConfig(r=2, target_modules=modules, fan_in_fan_out=name == "gpt2")
        loaded = under_adapter(make_tiny, chat_tokenizer, config, name=name, merged=merged)
        prompts = [pair.clean for pair in pairs_of(loaded)[:2]]
        target = direction(loaded) if kind == "direction" else CONTINUATIONS
        return decompose(loaded, prompts, target), magnitudes(loaded, prompts)

    (parts, lengths), (expected, expected_lengths) = decomposed(False), decomposed(True)
    total = parts.embedding + parts.attn.sum(1) + parts.mlp.sum(1) + parts.constant
    scale = float(parts.total.abs().max())
    torch.testing.assert_close(total / scale, parts.total / scale, atol=1e-4, rtol=1e-4)
    for own in ("heads", "neurons", "total"):
        found, wanted = getattr(parts, own), getattr(expected, own)
        torch.testing.assert_close(found / scale, wanted / scale, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(lengths, expected_lengths, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("config", [LoraConfig(use_dora=True), IA3Config(feedforward_modules=[]), GatedLoraConfig()])
def test_adapters_that_are_no_one_matrix_are_refused(make_tiny, chat_tokenizer, config):
    config.target_modules = {"o_proj"}
    loaded = under_adapter(make_tiny, chat_tokenizer, config)
    with pytest.raises(ModelError, match="adapter 'default': is not plain LoRA"):
        decompose(loaded, [pairs_of(loaded)[0].clean], direction(loaded))
    with loaded.model.disable_adapter():  # what does not act does not matter
        decompose(loaded, [pairs_of(loaded)[0].clean], direction(loaded))


def test_samples_with_continuations_of_one_polarity_have_no_direct_effects(make_tiny, chat_tokenizer):
    loaded = load_model(make_tiny("llama-mha"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    one_sided = {"a": CONTINUATIONS["a"], "b": {"positive": [(70,)]}, "c": {}}
    found = direct_attribution(loaded, SAMPLES, target=one_sided)
    assert found.samples == ("a",)
    with pytest.raises(ConfigError, match="no sample has one of each polarity"):
        direct_attribution(loaded, SAMPLES, target={"b": {"positive": [(70,)]}})


# -- continuations, refusals -------------------------------------------------------------------------------------------


def test_own_continuations_are_those_of_the_benchmark(make_tiny, chat_tokenizer):
    loaded = load_model(make_tiny("qwen2"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    renderer = Renderer(loaded.tokenizer)
    once = sample_behaviour(loaded, SAMPLES, renderer=renderer, n=2, max_tokens=5, seed=3)
    again = sample_behaviour(loaded, SAMPLES, renderer=renderer, n=2, max_tokens=5, seed=3)
    assert once == again
    assert set(once) == {"a", "b", "c"}
    lengths = [len(tokens) for own in once.values() for kind in own.values() for tokens in kind]
    assert max(lengths) <= 5


def test_samples_without_both_polarities_are_left_out(tiny_loaded):
    pairs = pairs_of(tiny_loaded, endings=polar_endings(CONTINUATIONS))
    assert {pair.sample for pair in pairs} == {"a", "b"}
    by_sample = [sum(pair.weight for pair in pairs if pair.sample == name) for name in ("a", "b")]
    assert by_sample == pytest.approx([0, 0])


def test_equalised_prompts_have_one_length_and_keep_their_words(tiny_loaded):
    for pair in pairs_of(tiny_loaded, equalised=True):
        assert len(pair.clean) == len(pair.corrupt)
        start, stop = pair.clean.spans["injection"]
        text = tiny_loaded.tokenizer.decode(pair.clean.ids[start:stop])
        assert text.strip("\n").strip() == SAMPLES.samples["abc".index(pair.sample)].injection(pair.clean.condition)


def test_direction_of_another_model_is_refused(make_tiny, chat_tokenizer):
    loaded = load_model(make_tiny("llama-mha"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    other = load_model(make_tiny("llama-mha", seed=1), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    with pytest.raises(DirectionError, match="fitted on a model with weights"):
        attribute(loaded, SAMPLES, target=direction(other))


def test_unknown_names_are_refused(tiny_loaded):
    with pytest.raises(ConfigError, match="attribution_patching"):
        attribute(tiny_loaded, SAMPLES, target=direction(tiny_loaded), method="attribution_patchin")
    with pytest.raises(ConfigError, match="behaviour"):
        attribute(tiny_loaded, SAMPLES, target="behavior")
    with pytest.raises(ConfigError, match="differ in length"):
        patch_stream(tiny_loaded, pairs_of(tiny_loaded), parse_target(direction(tiny_loaded), tiny_loaded))
