"""A model inside TransformerLens: the only file that touches it.

``TransformerBridge`` replaces modules of the Hugging Face model that it wraps, so it gets a copy; PEFT adapters are
merged into that copy first, so that weights are what the model computes with. Weights stay raw (nothing folded or
centred, no compatibility mode): logits equal the Hugging Face model's up to rounding. Attention is computed eagerly
there, for its patterns to be seen.

:func:`read_sites` reads the sites of a :class:`BridgedModel` there; whatever else is done with it (generation,
gradients, patching) runs on its plain modules.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leakmech.core.errors import ModelError
from leakmech.models.adapters import merged_copy
from leakmech.models.hooks import whole_unembedding
from leakmech.models.hub import first_line
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel
from leakmech.models.quiet import quiet
from leakmech.models.sites import Pick, Recorded, Site, recording

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# The places whose sum a site is. What TransformerLens calls `hook_resid_mid` is not a residual stream in Gemma.
_HOOKS: dict[Site, tuple[str, ...]] = {
    "resid_pre": ("hook_resid_pre",),
    "resid_mid": ("hook_resid_pre", "hook_attn_out"),
    "resid_post": ("hook_resid_post",),
    "attn_out": ("hook_attn_out",),
    "mlp_out": ("hook_mlp_out",),
    "z": ("attn.hook_z",),
    "mlp_post": ("mlp.hook_post",),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class BridgedModel(LoadedModel):
    """A model whose sites are read in `lens`, a copy of it inside TransformerLens."""

    lens: TransformerBridge

    @classmethod
    def of(cls, loaded: LoadedModel) -> BridgedModel:
        """Wrap a copy of `loaded`; raises as :func:`bridge`."""
        return cls(**{field.name: getattr(loaded, field.name) for field in fields(loaded)}, lens=bridge(loaded))


def read_sites(
    model: LoadedModel, inputs: Mapping[str, Tensor], *, sites: Sequence[Site], layers: Sequence[int], pick: Pick
) -> Recorded:
    """Give ``pick(values)`` of every site and layer, from one forward pass.

    The pass runs on the model's own modules, where interventions and adapters act; that of a :class:`BridgedModel` runs
    in TransformerLens.
    """
    if not isinstance(model, BridgedModel):
        recorder = recording(layout_of(model.model), sites=sites, layers=layers, pick=pick)
        with recorder as recorded, whole_unembedding(model.model):
            model.model(**inputs, use_cache=False, logits_to_keep=1)
        return recorded
    found: Recorded = {}

    def keeping(place: tuple[Site, int]) -> Callable[..., None]:
        def keep(values: Tensor, **_: Any) -> None:
            picked = pick(values.flatten(start_dim=2))  # heads stand side by side, as in the plain modules
            found[place] = found[place] + picked if place in found else picked

        return keep

    hooks: list[Any] = [
        (f"blocks.{layer}.{name}", keeping((site, layer)))
        for site in sites
        for layer in layers
        for name in _HOOKS[site]
    ]
    rest: dict[str, Any] = {name: value for name, value in inputs.items() if name != "input_ids"}
    rest |= {"return_type": None, "use_cache": False, "logits_to_keep": 1}
    model.lens.run_with_hooks(inputs["input_ids"], fwd_hooks=hooks, **rest)
    return found


def bridge(loaded: LoadedModel) -> TransformerBridge:
    """Wrap a copy of `loaded` as a TransformerLens bridge in eval mode; an unknown architecture is refused.

    Call it with token ids, ``attention_mask`` and ``position_ids``; hook names are TransformerLens's
    (``blocks.3.attn.hook_z``, shape (batch, pos, head, d_head)).
    """
    from transformer_lens.model_bridge import TransformerBridge

    model = merged_copy(loaded.model)
    supported = supported_architectures()
    architecture = type(model).__name__
    if architecture not in supported:
        raise ModelError(
            f"model {loaded.name!r}: TransformerLens does not know {architecture}; it knows {', '.join(supported)}"
        )
    model.config.architectures = [architecture]
    with quiet(), _muted_root_logger():
        try:
            # The name has an owner, or TransformerLens takes it for one of its own old short names.
            wrapped = TransformerBridge.boot_transformers(
                f"local/{architecture}",
                hf_model=model,
                tokenizer=_named(loaded.tokenizer),
                dtype=loaded.dtype,
                device=loaded.device,
            )
        except (ValueError, KeyError, AttributeError, RuntimeError) as problem:
            raise ModelError(
                f"model {loaded.name!r}: TransformerLens cannot wrap {architecture} ({first_line(problem)})"
            ) from problem
    return wrapped.eval()


def supported_architectures() -> list[str]:
    """List the class names of the causal language models that TransformerLens can wrap, sorted."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    return sorted(name for name in SUPPORTED_ARCHITECTURES if name.endswith(("ForCausalLM", "LMHeadModel")))


def _named(tokenizer: Any) -> Any:
    """Copy the tokenizer and give the copy the name that TransformerLens reads."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.init_kwargs.setdefault("name_or_path", tokenizer.name_or_path or "local")
    return tokenizer


@contextmanager
def _muted_root_logger() -> Iterator[None]:
    """Mute the root logger, through which TransformerLens warns of things that do not concern a user of leakmech."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
