"""A model inside TransformerLens: the only file that touches it.

``TransformerBridge`` replaces modules of the Hugging Face model that it wraps, so it gets a copy; PEFT adapters are
merged into that copy first, so that weights are what the model computes with. Weights stay raw (nothing folded or
centred, no compatibility mode): logits equal the Hugging Face model's up to rounding. Attention is computed eagerly
there, for its patterns to be seen.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from leakmech.core.errors import ModelError
from leakmech.models.hub import first_line
from leakmech.models.load import LoadedModel
from leakmech.models.quiet import quiet

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def bridge(loaded: LoadedModel) -> TransformerBridge:
    """`loaded` as a TransformerLens bridge, on a copy of its weights, in eval mode.

    Call it with token ids, ``attention_mask`` and ``position_ids``; hook names are TransformerLens's
    (``blocks.3.attn.hook_z``, shape (batch, pos, head, d_head)).

    Raises
    ------
    ModelError
        TransformerLens does not know the architecture; the message names those it knows.
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


def merged_copy(model: Any) -> Any:
    """A copy of a Hugging Face model; of a PEFT model, a copy of its base with the adapters merged in."""
    copied = copy.deepcopy(model)
    return copied.merge_and_unload() if hasattr(copied, "merge_and_unload") else copied


def supported_architectures() -> list[str]:
    """Class names of the causal language models that TransformerLens can wrap, sorted."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    return sorted(name for name in SUPPORTED_ARCHITECTURES if name.endswith(("ForCausalLM", "LMHeadModel")))


def _named(tokenizer: Any) -> Any:
    """A copy of the tokenizer that knows a name: TransformerLens reads it from where it was loaded."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.init_kwargs.setdefault("name_or_path", tokenizer.name_or_path or "local")
    return tokenizer


@contextmanager
def _muted_root_logger() -> Iterator[None]:
    """TransformerLens warns through the root logger of things that do not concern a user of leakmech."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
