"""Where each architecture keeps its blocks, heads and neurons: the one place that knows their module names.

A block adds two things to the residual stream, what its attention writes and what its MLP writes. Both are linear in
something that can be named: the concatenated head outputs z, of which head h is the slice ``[h * d_head, (h + 1) *
d_head)``, and the neuron activations after the non-linearity (for a gated MLP the product of gate and input). The
modules that take z and the neurons to the stream are ``heads_out`` and ``neurons_out``:

    attention writes  z @ W_O (+ b),    MLP writes  neurons @ W_out (+ b),

except in Gemma, which normalises either before it is added (``attention_post_norm``, ``mlp_post_norm``). Heads are
query heads, also where several of them share keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from leakmech.core.errors import ModelError
from leakmech.core.registry import Registry
from leakmech.models.adapters import base_of


@dataclass(frozen=True, eq=False)
class Block:
    """The modules of one transformer block."""

    block: nn.Module
    """The whole block; its input is the site `resid_pre`, its output `resid_post`."""
    attention: nn.Module
    mlp: nn.Module
    heads_out: nn.Module
    """Maps z, shape (..., n_heads * d_head), to d_model."""
    neurons_out: nn.Module
    """Maps neuron activations, shape (..., d_mlp), to d_model."""
    attention_post_norm: nn.Module | None = None
    """Norm between a sublayer and the stream (Gemma)."""
    mlp_post_norm: nn.Module | None = None
    adds_in_place: bool = False
    """Whether the block goes on to add to what its MLP returned, in place (Falcon)."""
    queries: nn.Module | None = None
    """Maps the normed stream to the queries of all heads, shape (..., n_heads * d_head), which are turned by position
    and read as they are; None where queries share a module with keys and values, or are normalised."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A model's blocks and sizes."""

    architecture: str
    """``model_type`` of its configuration."""
    blocks: tuple[Block, ...]
    embedding: nn.Module
    final_norm: nn.Module
    unembedding: nn.Module
    n_heads: int
    """Query heads, also where several share keys and values."""
    n_kv_heads: int
    d_head: int
    d_model: int
    d_mlp: int
    """Neurons of an MLP; 0 where it is a mixture of experts."""
    position_embedding: nn.Module | None = None
    """Added to the embedding, by position (GPT-2)."""
    embedding_scale: float = 1.0
    """Factor between the rows of the embedding and the stream (Gemma)."""
    parallel: bool = False
    """Whether attention and MLP read the same stream (GPT-NeoX, Phi), so that there is no `resid_mid`."""

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    def block(self, layer: int) -> Block:
        """The block of a layer, counted from 0."""
        if not 0 <= layer < self.n_layers:
            raise ModelError(f"layer {layer}: this model has {self.n_layers} layers, 0 to {self.n_layers - 1}")
        return self.blocks[layer]

    def head(self, head: int) -> slice:
        """The part of z that a head has."""
        if not 0 <= head < self.n_heads:
            raise ModelError(f"head {head}: this model has {self.n_heads} heads in each layer, 0 to {self.n_heads - 1}")
        return slice(head * self.d_head, (head + 1) * self.d_head)


def layout_of(model: nn.Module) -> Layout:
    """The layout of a Hugging Face causal language model, or of one inside a PEFT model or a multimodal one."""
    model = base_of(model)  # layers of PEFT wrap those of the base model under the same names
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    architecture = str(getattr(config, "model_type", type(model).__name__))
    if architecture not in _FAMILIES:
        raise ModelError(
            f"architecture {architecture!r}: leakmech measures it (bench), and does not know where it keeps its heads; "
            f"known are {', '.join(sorted(_FAMILIES))}"
        )
    return _FAMILIES[architecture](model, config)


def write_weights(linear: nn.Module) -> Float[Tensor, "d_in d_out"]:
    """Weights of `heads_out` or `neurons_out` as ``input @ weights``: row i is what input i writes to the stream.

    Adapters that act and are not merged are part of them.
    """
    inner: Any = getattr(linear, "base_layer", linear)
    weight = inner.weight
    for change in _adapter_changes(linear) if inner is not linear else ():
        weight = weight + change
    # GPT-2's Conv1D keeps its weights as (d_in, d_out), nn.Linear as (d_out, d_in).
    return weight if type(inner).__name__ == "Conv1D" else weight.T


def _adapter_changes(layer: Any) -> list[Tensor]:
    """What the adapters of a PEFT layer add to its weights while they are not merged."""
    if layer.disable_adapters or layer.merged:
        return []
    changes = []
    for name in layer.active_adapters:
        plain = hasattr(layer, "lora_A") and name not in layer.lora_variant and not layer.lora_bias.get(name)
        if not plain:  # gates, DoRA, other kinds of adapters
            raise ModelError(
                f"adapter {name!r}: is not plain LoRA, so what heads and neurons write has no one matrix; take a model "
                "without it, or with it merged in where it can be"
            )
        if name in layer.lora_A:
            changes.append(layer.get_delta_weight(name))
    return changes


class NoNeurons(nn.Module):
    """Stands in ``neurons_out`` where an MLP has no neurons of its own: a mixture of experts."""


_POST_NORMED = ("gemma2", "gemma3_text", "olmo2", "olmo3")
"""Architectures that normalise what a sublayer writes before it is added to the stream."""


def _llama_like(model: Any, config: Any) -> Layout:
    inner = getattr(model.model, "language_model", model.model)  # beside a model of images
    post_normed = config.model_type in _POST_NORMED
    experts = config.model_type in _MIXTURES
    blocks = tuple(
        Block(
            block=block,
            attention=block.self_attn,
            mlp=block.mlp,
            heads_out=_module_of(block.self_attn, "o_proj", "dense"),
            neurons_out=NoNeurons() if experts else _module_of(block.mlp, "down_proj", "c_proj", "fc2"),
            attention_post_norm=block.post_attention_layernorm if post_normed else None,
            mlp_post_norm=block.post_feedforward_layernorm if post_normed else None,
            queries=None if _norms_queries(block.self_attn) else getattr(block.self_attn, "q_proj", None),
        )
        for block in inner.layers
    )
    return Layout(
        architecture=config.model_type,
        blocks=blocks,
        embedding=model.get_input_embeddings(),
        final_norm=_module_of(inner, "norm", "final_layernorm"),
        unembedding=model.get_output_embeddings(),
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        d_head=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        d_model=config.hidden_size,
        d_mlp=0 if experts else config.intermediate_size,
        embedding_scale=getattr(model.get_input_embeddings(), "scalar_embed_scale", 1.0),
        parallel=config.model_type == "phi" or getattr(config, "use_parallel_residual", False),
    )


def _module_of(parent: nn.Module, *names: str) -> nn.Module:
    """The first module that `parent` has under one of these names."""
    return next(getattr(parent, name) for name in names if hasattr(parent, name))


def _norms_queries(attention: nn.Module) -> bool:
    """Whether queries are normalised by head after their module made them."""
    return hasattr(attention, "q_norm") or hasattr(attention, "q_layernorm")


def _falcon(model: Any, config: Any) -> Layout:
    inner = model.transformer
    parallel = config.parallel_attn or config.new_decoder_architecture
    shared = 1 if config.multi_query else config.num_attention_heads
    return Layout(
        architecture=config.model_type,
        blocks=tuple(
            Block(b, b.self_attention, b.mlp, b.self_attention.dense, b.mlp.dense_4h_to_h, adds_in_place=parallel)
            for b in inner.h
        ),
        embedding=model.get_input_embeddings(),
        final_norm=inner.ln_f,
        unembedding=model.get_output_embeddings(),
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_kv_heads if config.new_decoder_architecture else shared,
        d_head=config.hidden_size // config.num_attention_heads,
        d_model=config.hidden_size,
        d_mlp=config.ffn_hidden_size,
        parallel=parallel,
    )


def _gpt2(model: Any, config: Any) -> Layout:
    inner = model.transformer
    return Layout(
        architecture=config.model_type,
        blocks=tuple(Block(b, b.attn, b.mlp, b.attn.c_proj, b.mlp.c_proj) for b in inner.h),
        embedding=model.get_input_embeddings(),
        final_norm=inner.ln_f,
        unembedding=model.get_output_embeddings(),
        n_heads=config.n_head,
        n_kv_heads=config.n_head,
        d_head=config.n_embd // config.n_head,
        d_model=config.n_embd,
        d_mlp=config.n_inner or 4 * config.n_embd,
        position_embedding=inner.wpe,
    )


def _gpt_neox(model: Any, config: Any) -> Layout:
    inner = model.gpt_neox
    return Layout(
        architecture=config.model_type,
        blocks=tuple(Block(b, b.attention, b.mlp, b.attention.dense, b.mlp.dense_4h_to_h) for b in inner.layers),
        embedding=model.get_input_embeddings(),
        final_norm=inner.final_layer_norm,
        unembedding=model.get_output_embeddings(),
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_attention_heads,
        d_head=config.hidden_size // config.num_attention_heads,
        d_model=config.hidden_size,
        d_mlp=config.intermediate_size,
        parallel=config.use_parallel_residual,
    )


_MIXTURES = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")
_LLAMA_LIKE = (
    "gemma", "gemma2", "gemma3_text", "llama", "mistral", "olmo2", "olmo3", "phi", "phi3", "qwen2", "qwen3",
    "smollm3", "stablelm", "starcoder2", *_MIXTURES,
)  # fmt: skip
_FAMILIES: Registry[Callable[[Any, Any], Layout]] = Registry(
    "architecture",
    dict.fromkeys(_LLAMA_LIKE, _llama_like) | {"falcon": _falcon, "gpt2": _gpt2, "gpt_neox": _gpt_neox},
    error=ModelError,
)
