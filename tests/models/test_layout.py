"""Layouts: what the named modules read and write is what the residual stream gets."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from leakmech.core.errors import ModelError
from leakmech.models.layout import layout_of, write_weights

TOKENS = torch.arange(1, 25)[None, :]


@pytest.fixture
def run(tiny_model):
    """Inputs and outputs of chosen modules in one forward pass."""

    def forward(modules):
        seen, handles = {}, []
        for name, module in modules.items():

            def keep(_, inputs, output, name=name):
                seen[name] = (inputs[0] if inputs else None, output[0] if isinstance(output, tuple) else output)

            handles.append(module.register_forward_hook(keep))
        with torch.inference_mode():
            seen["logits"] = tiny_model(TOKENS).logits
        for handle in handles:
            handle.remove()
        return seen

    return forward


def test_blocks_write_their_attention_and_their_mlp_to_the_stream(tiny_model, run):
    layout = layout_of(tiny_model)
    assert layout.n_layers == 3
    for layer in range(3):
        block = layout.block(layer)
        attention = block.attention_post_norm or block.attention
        mlp = block.mlp_post_norm or block.mlp
        seen = run({"block": block.block, "attention": attention, "mlp": mlp})
        before, after = seen["block"]
        torch.testing.assert_close(after, before + seen["attention"][1] + seen["mlp"][1], rtol=0, atol=2e-5)


def test_heads_and_neurons_add_up_to_what_their_sublayer_writes(tiny_model, run):
    layout = layout_of(tiny_model)
    block = layout.block(1)
    seen = run({"attention": block.attention, "z": block.heads_out, "mlp": block.mlp, "neurons": block.neurons_out})
    z, neurons = seen["z"][0], seen["neurons"][0]
    assert z.shape[-1] == layout.n_heads * layout.d_head
    assert neurons.shape[-1] == layout.d_mlp
    weights = write_weights(block.heads_out).detach()
    by_head = [z[..., layout.head(h)] @ weights[layout.head(h)] for h in range(layout.n_heads)]
    written = sum(by_head) + _bias(block.heads_out)
    torch.testing.assert_close(written, seen["attention"][1], rtol=0, atol=2e-5)
    written = neurons @ write_weights(block.neurons_out).detach() + _bias(block.neurons_out)
    torch.testing.assert_close(written, seen["mlp"][1], rtol=0, atol=2e-5)


def _bias(module):
    return 0 if getattr(module, "bias", None) is None else module.bias.detach()


def test_the_last_block_norm_and_unembedding_give_the_logits(tiny_model, run):
    layout = layout_of(tiny_model)
    seen = run({"block": layout.blocks[-1].block, "embedding": layout.embedding})
    with torch.inference_mode():
        logits = layout.unembedding(layout.final_norm(seen["block"][1]))
    torch.testing.assert_close(logits, seen["logits"], rtol=0, atol=2e-5)
    assert seen["embedding"][1].shape == (1, TOKENS.shape[1], layout.d_model)


def test_query_heads_are_counted_where_keys_are_shared(make_tiny):
    layout = layout_of(make_tiny("llama-gqa"))
    assert (layout.n_heads, layout.n_kv_heads, layout.d_head) == (4, 2, 8)
    assert layout.head(3) == slice(24, 32)


def test_a_peft_model_has_the_layout_of_its_base(make_tiny):
    base = make_tiny("llama-gqa")
    adapted = get_peft_model(base, LoraConfig(target_modules=["o_proj"], r=2))
    layout = layout_of(adapted)
    assert layout.n_layers == 3
    assert hasattr(layout.block(0).heads_out, "lora_A")


@pytest.mark.parametrize(
    ("call", "message"), [("block", "3 layers, 0 to 2"), ("head", "4 heads in each layer, 0 to 3")]
)
@pytest.mark.parametrize("number", [-1, 4])
def test_layers_and_heads_out_of_range_are_refused(make_tiny, call, message, number):
    with pytest.raises(ModelError, match=message):
        getattr(layout_of(make_tiny("gpt2")), call)(number)


def test_an_unknown_architecture_is_refused_with_those_that_are_known():
    with pytest.raises(ModelError, match=r"'Linear': leakmech measures it.*gpt2.*qwen2"):
        layout_of(nn.Linear(2, 2))
