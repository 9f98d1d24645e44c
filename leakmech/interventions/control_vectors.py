"""Steering vectors as llama.cpp control vectors: a GGUF file for ``--control-vector``.

llama.cpp adds ``direction.l`` to the output of block l at every token (blocks counted from 0; there is none for block
0), times the scale of the command line, so with scale 1

    direction.l = sum of the steps at resid_post of layer l and at resid_pre of layer l + 1.

Strengths are multiplied in. Tensors are float32 of shape (d_model,); layers without a step hold zeros.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import InterventionError, nearest
from leakmech.core.store import atomic_path
from leakmech.interventions.base import Intervention
from leakmech.interventions.checks import as_interventions, fitting_layout
from leakmech.interventions.steering import Steer
from leakmech.models.layout import Layout

# llama.cpp's names of the architectures.
_NAMES = {
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "gpt2": "gpt2",
    "gpt_neox": "gptneox",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}


def export_control_vector(
    interventions: Intervention | Iterable[Intervention], path: str | Path, *, model: Any
) -> Path:
    """Write additions to the stream as a llama.cpp control vector.

    Parameters
    ----------
    interventions
        :class:`Steer` values that add at all positions, at ``resid_post`` or ``resid_pre``.
    path
        Path of the GGUF file to write.
    model
        The model (or :class:`LoadedModel`) that the interventions are for.

    Returns
    -------
    Path
        The path of the file.

    Raises
    ------
    InterventionError
        An intervention is something that control vectors cannot express; the message names it.
    StorageError
        The file system refuses.
    """
    from gguf import GGUFWriter

    chosen = as_interventions(interventions)
    layout = fitting_layout(chosen, model)
    if layout.architecture not in _NAMES:
        raise InterventionError(f"{layout.architecture}: unknown to llama.cpp{nearest(layout.architecture, _NAMES)}")
    steps = _steps(chosen, layout)
    path = Path(path)
    with atomic_path(path) as temporary:
        writer = GGUFWriter(temporary, "controlvector")
        writer.add_string("controlvector.model_hint", _NAMES[layout.architecture])
        writer.add_int32("controlvector.layer_count", layout.n_layers - 1)
        for layer in range(1, layout.n_layers):
            writer.add_tensor(f"direction.{layer}", steps[layer].numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def _steps(interventions: Iterable[Intervention], layout: Layout) -> Float[Tensor, "layer d_model"]:
    """What is added to the output of each block."""
    steps = torch.zeros(layout.n_layers, layout.d_model)
    for item in interventions:
        if not isinstance(item, Steer) or item.mode != "add":
            raise InterventionError(f"{item}: a control vector can only add to the stream")
        if item.positions != "all" or item.condition is not None:
            raise InterventionError(f"{item}: a control vector acts at every token of every prompt")
        if item.site not in ("resid_post", "resid_pre"):
            raise InterventionError(f"{item}: a control vector acts on the output of blocks (resid_post, resid_pre)")
        for place, layer in enumerate(item.layers):
            block = layer if item.site == "resid_post" else layer - 1
            if block < 1:
                raise InterventionError(f"{item}: llama.cpp has no control vector before or on the output of block 0")
            steps[block] += item.step(place)
    if not bool(steps.any()):
        raise InterventionError("control vector: nothing is added anywhere")
    return steps
