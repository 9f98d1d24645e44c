"""Transport and expression: parts of a head add up to the head, and all parts to the projection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

from leakmech.core.errors import DirectionError
from leakmech.datasets.samples import POLARITIES, PromptSet, Sample, load_dataset
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.mechanism.activations.run import padded
from leakmech.mechanism.attention.injected import injected_prompts, part_mask
from leakmech.mechanism.attention.transport import role, split_z, transport_and_expression
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.attention_patterns import eager_attention, watching_attention
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.models.sites import recording
from leakmech.prompts.render import Renderer

SAMPLES = PromptSet(
    "small",
    (
        Sample("a", "The café is", "We won.", "It was Tuesday.", "Our dog has died today."),
        Sample("b", "Her passion is", "The sun came out at last.", "A bus went by.", "I lost my keys."),
        Sample("c", "The train", "What joy!", "He sat.", "They wept for days… in vain."),
    ),
)


def direction(loaded, layer: int, site: str = "resid_post") -> Direction:
    vector = torch.randn(layout_of(loaded.model).d_model, generator=torch.Generator().manual_seed(1))
    return Direction(
        vector=vector / vector.norm(),
        site=site,
        layer=layer,
        position="last_prompt",
        method="random",
        kind="read",
        stream_norm=1.0,
        projections={},
        threshold=0.0,
    )


def projections(loaded, samples, chosen: Direction) -> np.ndarray:
    """Positive minus negative projection on `chosen`, per sample, as cached activations give it."""
    found = cache_activations(loaded, samples, sites=[chosen.site], layers=[chosen.layer], conditions=POLARITIES)
    values = found[chosen.site].values[:, :, 0, 0]
    return chosen.project(values[:, 0] - values[:, 1]).numpy()


def test_the_two_parts_of_a_head_are_its_output(tiny_loaded) -> None:
    prompts = injected_prompts(SAMPLES, Renderer(tiny_loaded.tokenizer), POLARITIES)
    inputs, layout = padded(prompts, torch.device("cpu")), layout_of(tiny_loaded.model)
    inside = part_mask(prompts, "injection", width=inputs["input_ids"].shape[1])
    cache, parts = DynamicCache(), []

    def see(pattern) -> None:
        parts.append(split_z(pattern.weights[:, :, -1], cache.layers[pattern.layer].values, inside))

    with (
        torch.no_grad(),
        eager_attention(tiny_loaded.model),
        recording(layout, sites=["z"], layers=range(3), pick=lambda z: z[:, -1]) as recorded,
        watching_attention(layout, see, layers=range(3)),
    ):
        tiny_loaded.model(**inputs, past_key_values=cache, use_cache=True)
    for layer, split in enumerate(parts):
        z = recorded["z", layer].reshape(len(prompts), layout.n_heads, layout.d_head)
        scale = z.square().mean().sqrt().clamp(min=1)
        torch.testing.assert_close(split.sum(dim=1) / scale, z / scale, rtol=1e-5, atol=1e-5)
        nothing, everything = split_z(
            torch.ones(len(prompts), layout.n_heads, inside.shape[1]),
            cache.layers[layer].values,
            torch.zeros_like(inside),
        ).unbind(dim=1)
        assert not nothing.any()
        assert everything.any()


def test_all_contributions_add_up_to_the_projection(tiny_loaded) -> None:
    chosen = direction(tiny_loaded, layer=2)
    found = transport_and_expression(tiny_loaded, SAMPLES, chosen, batch_size=4)
    shifts = projections(tiny_loaded, SAMPLES, chosen)
    np.testing.assert_allclose(found.shifts, shifts, rtol=1e-4, atol=1e-4)
    # The last token is the same, but where positions are embedded (GPT-2) it stands elsewhere.
    embedded = projections(tiny_loaded, SAMPLES, direction(tiny_loaded, layer=0, site="resid_pre"))
    total = found.transport.sum(axis=(1, 2)) + found.expression.sum(axis=(1, 2)) + found.mlps.sum(axis=1) + embedded
    np.testing.assert_allclose(total, shifts, rtol=1e-4, atol=1e-4 * np.abs(shifts).max())
    assert np.abs(found.transport).max() > 1e-3


def test_padding_does_not_change_a_contribution(tiny_loaded) -> None:
    chosen = direction(tiny_loaded, layer=1)
    single, together = (
        transport_and_expression(tiny_loaded, SAMPLES, chosen, batch_size=size) for size in (1, len(SAMPLES) * 2)
    )
    for name in ("transport", "expression", "mlps", "shifts"):
        ours, theirs = getattr(single, name), getattr(together, name)
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, np.abs(ours).max()))


def test_transport_is_what_the_weights_say(make_tiny, chat_tokenizer) -> None:
    """By hand in the first layer of a Llama with grouped heads: sum_k A_qk v_k W_O d over the injection's tokens."""
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    one = PromptSet("one", SAMPLES.samples[:1])
    chosen, head = direction(loaded, layer=0), 2  # shares its keys and values with head 3
    block, inner = layout_of(loaded.model).block(0), loaded.model.model.layers[0]
    expected = 0.0
    for prompt in injected_prompts(one, Renderer(chat_tokenizer), POLARITIES):
        ids, (start, stop) = torch.tensor(prompt.ids[None]).long(), prompt.spans["injection"]
        with torch.no_grad(), eager_attention(loaded.model):
            weights = loaded.model(ids, output_attentions=True).attentions[0][0, head, -1]
            read = inner.self_attn.v_proj(inner.input_layernorm(loaded.model.get_input_embeddings()(ids)))[0]
        values = read[:, 8:16]  # the second of two heads of values, eight wide
        z = weights[start:stop] @ values[start:stop]
        written = block.heads_out.weight[:, head * 8 : head * 8 + 8] @ z
        expected += (1 if prompt.condition == "positive" else -1) * float(chosen.project(written.detach()))
    found = transport_and_expression(loaded, one, chosen)
    assert found.transport[0, 0, head] == pytest.approx(expected, abs=1e-5)


def test_an_adapter_on_the_output_weights_counts(make_tiny, chat_tokenizer) -> None:
    config = LoraConfig(target_modules=["o_proj", "v_proj"], r=2, init_lora_weights=False)
    adapted = get_peft_model(make_tiny("llama-gqa"), config)
    loaded = load_model(adapted, tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    found = transport_and_expression(loaded, SAMPLES, direction(loaded, layer=2))
    total = found.transport.sum(axis=(1, 2)) + found.expression.sum(axis=(1, 2)) + found.mlps.sum(axis=1)
    np.testing.assert_allclose(total, found.shifts, rtol=1e-4, atol=1e-4)
    assert adapted.get_base_model().config._attn_implementation == "sdpa"


def test_table_has_a_row_for_every_head_and_mlp(make_tiny, chat_tokenizer) -> None:
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    found = transport_and_expression(loaded, SAMPLES, direction(loaded, layer=2, site="resid_pre"))
    frame = found.to_frame().set_index("name")
    assert len(frame) == 2 * 5  # resid_pre of layer 2 is what layers 0 and 1 have written
    assert frame.loc["L1H3", "transport"] == found.transport[:, 1, 3].mean()
    assert frame.loc["L1.mlp", "expression"] == found.mlps[:, 1].mean()
    assert frame.loc["L1.mlp", "role"] == "expression"
    assert frame["share"].sum() == pytest.approx(1, abs=1e-4)
    assert [role(2.0, -1.0), role(0.5, -1.0), role(-1.0, 0.9)] == ["transport", "expression", "both"]


def test_a_direction_of_another_model_is_refused(make_tiny, chat_tokenizer) -> None:
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    with pytest.raises(DirectionError, match="resid_pre or resid_post"):
        transport_and_expression(loaded, SAMPLES, direction(loaded, layer=1, site="mlp_out"))


@pytest.mark.slow
def test_contributions_of_the_real_model_add_up(embedded_model) -> None:
    found = transport_and_expression(embedded_model, load_dataset("hexl").take(4), direction(embedded_model, layer=20))
    total = found.transport.sum(axis=(1, 2)) + found.expression.sum(axis=(1, 2)) + found.mlps.sum(axis=1)
    np.testing.assert_allclose(total, found.shifts, rtol=1e-3, atol=1e-3 * np.abs(found.shifts).max())
