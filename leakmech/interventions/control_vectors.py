"""Additions to the stream for other engines: control vectors of llama.cpp, steering vectors of vllm-lens.

**llama.cpp** reads a GGUF file (``--control-vector``). It adds ``direction.l`` to the output of block l at every token
(blocks counted from 0; there is none for block 0), times the scale of the command line, so with scale 1

    direction.l = sum of the steps at resid_post of layer l and at resid_pre of layer l + 1.

Strengths are multiplied in. Tensors are float32 of shape (d_model,); layers without a step hold zeros.

**vllm-lens** (a plugin of vLLM) takes the JSON that its HTTP interface does: a list with one vector, whose
``activations`` of shape (layers, d_model) it adds to the outputs of the blocks ``layer_indices``, block 0 included, at
every token. The text of the file goes into ``SamplingParams(extra_args={"apply_steering_vectors": text})``. Tensors are
float32, little-endian, in base64.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import InterventionError, nearest
from leakmech.core.store import atomic_path, json_text, write_text
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
    steps = _steps(chosen, layout, engine="llama.cpp", first=1)
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


def export_steering_vector(
    interventions: Intervention | Iterable[Intervention], path: str | Path, *, model: Any
) -> Path:
    """Write additions to the stream as a steering vector of vllm-lens.

    The format is that of vllm-lens 1.2 and is read by its own rules in a test; it was not tried on a running vLLM.

    Parameters
    ----------
    interventions
        :class:`Steer` values that add at all positions, at ``resid_post`` or ``resid_pre``.
    path
        Path of the JSON file to write.
    model
        The model (or :class:`LoadedModel`) that the interventions are for.

    Returns
    -------
    Path
        The path of the file.

    Raises
    ------
    InterventionError
        An intervention is something that steering vectors cannot express; the message names it.
    StorageError
        The file system refuses.
    """
    chosen = as_interventions(interventions)
    steps = _steps(chosen, fitting_layout(chosen, model), engine="vllm-lens", first=0)
    layers = [layer for layer, step in enumerate(steps) if bool(step.any())]
    values = steps[layers].numpy().astype("<f4")
    tensor = {
        "data": base64.b64encode(values.tobytes()).decode("ascii"),
        "dtype": "float32",
        "original_dtype": "torch.float32",
        "shape": list(values.shape),
    }
    vector = {"activations": tensor, "layer_indices": layers, "scale": 1.0, "norm_match": False}
    path = Path(path)
    write_text(path, json_text([vector | {"position_indices": None}]))
    return path


def _steps(
    interventions: Iterable[Intervention], layout: Layout, *, engine: str, first: int
) -> Float[Tensor, "layer d_model"]:
    """What is added to the output of each block, of which `first` is the lowest that `engine` can change."""
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
            if block < first:
                where = "before or on the output of block 0" if first else "before block 0"
                raise InterventionError(f"{item}: {engine} adds nothing {where}")
            steps[block] += item.step(place)
    if not bool(steps.any()):
        raise InterventionError("control vector: nothing is added anywhere")
    return steps
