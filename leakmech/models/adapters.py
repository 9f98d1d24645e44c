"""Models with PEFT adapters on them: what is inside, and a copy with the adapters merged in."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from typing import Any

from torch import Tensor

GATED = "LEAKMECH_GATED_LORA"
"""Type of a gated adapter in its configuration (:mod:`leakmech.models.gated`)."""


def is_peft(model: Any) -> bool:
    """Whether `model` is a PEFT model; PEFT takes two seconds to import, so it is only looked at if it is imported."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def base_of(model: Any) -> Any:
    """The Hugging Face model inside a PEFT model, or `model` itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def merged_copy(model: Any, *, shared: Iterable[Tensor] = ()) -> Any:
    """A copy of a Hugging Face model; of a PEFT model, a copy of its base with the adapters merged in.

    Weights that are `shared` are not copied; of a PEFT model all are, for merging changes them.
    """
    copied = copy.deepcopy(model, {} if is_peft(model) else {id(one): one for one in shared})
    return copied.merge_and_unload() if hasattr(copied, "merge_and_unload") else copied
