"""Running the prompts' common first tokens once changes nothing but the cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mechanism_samples import SAMPLES, direction

from leakmech.mechanism.activations.run import padded
from leakmech.mechanism.attribution import paired_run
from leakmech.mechanism.attribution.gradients import attribute_pairs, parse_target
from leakmech.mechanism.attribution.pairs import make_pairs, polar_endings
from leakmech.mechanism.attribution.patching import patch_heads
from leakmech.mechanism.attribution.prefixes import common_length, ending_after, head_cache
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.prompts.render import Renderer

CONTINUATIONS = {name: {"positive": [(10, 20, 30)], "negative": [(50, 60)]} for name in "abc"}


def sequences(pairs):
    return [prompt for pair in pairs for prompt in (pair.clean, pair.corrupt)]


def without_head(monkeypatch):
    monkeypatch.setattr(paired_run, "common_length", lambda *_, **__: 0)


def wide_window(make_tiny, chat_tokenizer):
    """Gemma 3 with a window that holds every prompt of the tests."""
    model = make_tiny("gemma3")
    model.config.sliding_window = 1024
    for block in layout_of(model).blocks:
        if block.attention.sliding_window is not None:
            block.attention.sliding_window = 1024
    return load_model(model, tokenizer=chat_tokenizer)


def assert_head_changes_nothing(loaded, monkeypatch, *, layer, shared):
    for kind, endings in ((direction(loaded, layer=layer), None), ("behaviour", polar_endings(CONTINUATIONS))):
        pairs = make_pairs(SAMPLES, Renderer(loaded.tokenizer), endings=endings)
        target = parse_target(kind, loaded)
        n_suffix = max(pair.n_shared for pair in pairs)
        assert (common_length(loaded, sequences(pairs), n_suffix=n_suffix) > 50) == shared
        for method, side in (
            ("attribution_patching", "corrupt"),
            ("attribution_patching", "clean"),
            ("graddrop", "clean"),
        ):
            with_head = attribute_pairs(loaded, pairs, target, method=method, side=side)
            with monkeypatch.context() as patch:
                without_head(patch)
                without = attribute_pairs(loaded, pairs, target, method=method, side=side)
            for name in ("heads", "neurons", "shifts"):
                expected = getattr(without, name)
                scale = max(np.abs(expected).max(), 1e-9)  # 0 for neurons that are all dropped
                np.testing.assert_allclose(getattr(with_head, name) / scale, expected / scale, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("layer", [0, 2])
def test_attribution_is_the_same_with_a_shared_head(tiny_loaded, monkeypatch, layer):
    windowed = layout_of(tiny_loaded.model).architecture.startswith("gemma3")
    assert_head_changes_nothing(tiny_loaded, monkeypatch, layer=layer, shared=not windowed)


def test_attribution_is_the_same_with_a_shared_head_inside_a_window(make_tiny, chat_tokenizer, monkeypatch):
    assert_head_changes_nothing(wide_window(make_tiny, chat_tokenizer), monkeypatch, layer=2, shared=True)


def test_patching_is_the_same_with_a_shared_head(tiny_loaded, monkeypatch):
    pairs = make_pairs(SAMPLES, Renderer(tiny_loaded.tokenizer))
    target = parse_target(direction(tiny_loaded), tiny_loaded)
    with_head = patch_heads(tiny_loaded, pairs, target, layers=[1]).effects
    without_head(monkeypatch)
    without = patch_heads(tiny_loaded, pairs, target, layers=[1]).effects
    np.testing.assert_allclose(with_head, without, atol=1e-5)


def test_heads_end_where_prompts_differ_and_before_the_suffix(make_tiny, chat_tokenizer):
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)
    prompts = sequences(make_pairs(SAMPLES, Renderer(loaded.tokenizer)))
    n = common_length(loaded, prompts, n_suffix=1)
    assert len({tuple(prompt.ids[:n]) for prompt in prompts}) == 1
    assert len({int(prompt.ids[n]) for prompt in prompts}) > 1
    shortest = min(map(len, prompts))
    assert common_length(loaded, prompts, n_suffix=shortest - 3) == 3
    assert common_length(loaded, prompts, n_suffix=shortest + 5) == 0


def test_padding_stands_after_the_head_and_moves_no_position(tiny_loaded):
    prompts = sequences(make_pairs(SAMPLES, Renderer(tiny_loaded.tokenizer)))
    inputs = padded(prompts, tiny_loaded.device, n_head=20)
    for row, prompt in enumerate(prompts):
        real = inputs["attention_mask"][row].bool()
        np.testing.assert_array_equal(inputs["input_ids"][row][real], prompt.ids)
        np.testing.assert_array_equal(inputs["position_ids"][row][real], np.arange(len(prompt)))
        assert real[:20].all()
        assert real[-(len(prompt) - 20) :].all()


def test_layers_above_the_target_do_not_run(tiny_loaded):
    ran = []
    layout = layout_of(tiny_loaded.model)
    handle = layout.block(2).block.register_forward_hook(lambda *_: ran.append(2))
    pairs = make_pairs(SAMPLES, Renderer(tiny_loaded.tokenizer))
    try:
        attribute_pairs(tiny_loaded, pairs, parse_target(direction(tiny_loaded, layer=1), tiny_loaded))
    finally:
        handle.remove()
    assert ran == []


def test_passes_that_end_early_leave_no_hooks(tiny_loaded):
    prompts = sequences(make_pairs(SAMPLES, Renderer(tiny_loaded.tokenizer)))
    block = layout_of(tiny_loaded.model).block(1).block
    before = len(block._forward_hooks)
    with torch.no_grad(), ending_after(block):
        tiny_loaded.model(**padded(prompts, tiny_loaded.device))
        pytest.fail("the pass did not end")
    assert len(block._forward_hooks) == before
    cache = head_cache(tiny_loaded, prompts, 10, n_layers=2)
    assert cache is not None
    assert [layer.keys.shape[-2] for layer in cache.layers] == [10, 10]
    assert not layout_of(tiny_loaded.model).block(1).heads_out._forward_pre_hooks
