"""Where a model runs and in which number format, when the user does not say.

bfloat16 is the default where the hardware multiplies it (CUDA since Ampere, x86 with AVX512-BF16 or AMX-BF16) and torch
makes use of that (``ATEN_CPU_CAPABILITY`` and ``ONEDNN_MAX_CPU_ISA`` can forbid it, as can a virtual machine).
Decoding is bound by the bytes of the weights, and half the bytes made it 1.5 to 2 times faster on two AVX512-BF16
cores. Everywhere else bfloat16 would be emulated and slow, and float32 is the default.
"""

from __future__ import annotations

import torch

from leakmech.core.errors import ModelError
from leakmech.models.names import DEVICES, refuse_unknown_device, refuse_unknown_dtype
from leakmech.models.names import DTYPES as DTYPE_NAMES

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, own) for name, own in DTYPE_NAMES.items()}
_CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16")


def dtype_name(dtype: torch.dtype) -> str:
    """``"bfloat16"`` for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")


def cpu_bfloat16_features() -> tuple[str, ...]:
    """Those of ``avx512_bf16`` and ``amx_bf16`` that the CPU has; none if torch makes use of neither."""
    if not _torch_uses_avx512():
        return ()
    features = torch.cpu.get_capabilities()
    return tuple(name for name in _CPU_BFLOAT16 if features.get(name))


def _torch_uses_avx512() -> bool:
    """Whether torch itself and the library of its matrix products may use AVX-512, which they need for bfloat16."""
    by_library = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return by_library and "AVX512" in torch.backends.cpu.get_cpu_capability()


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where `device` multiplies it in hardware, float32 elsewhere (MPS included)."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and bool(cpu_bfloat16_features())
    return torch.bfloat16 if fast else torch.float32


def resolve_dtype(dtype: str | torch.dtype | None, *, device: torch.device) -> torch.dtype:
    """The dtype for a name (``"bfloat16"``, ``"bf16"`` …), a dtype, or the default for None and ``"auto"``."""
    if dtype is None or dtype == "auto":
        return default_dtype(device)
    name = dtype_name(dtype) if isinstance(dtype, torch.dtype) else dtype
    refuse_unknown_dtype(name)
    return DTYPES[name]


def available_devices() -> tuple[str, ...]:
    """The device types of this machine, best first; the first is the default."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return tuple(name for name in DEVICES if available[name])


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device for a name such as ``"cuda:1"``, or the best one for None and ``"auto"``."""
    if device is None or device == "auto":
        return torch.device(available_devices()[0])
    name = str(device)
    kind = name.partition(":")[0]
    refuse_unknown_device(name)
    try:
        resolved = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"unknown device {name!r}; write 'cuda', 'cuda:0', 'mps' or 'cpu'") from error
    too_high = kind == "cuda" and (resolved.index or 0) >= torch.cuda.device_count()
    if kind not in available_devices() or too_high:
        raise ModelError(f"device {name!r} is not available here; available: {', '.join(available_devices())}")
    return resolved


def rng_devices(device: torch.device) -> list[torch.device]:
    """Devices whose random state ``torch.random.fork_rng`` must keep besides that of the CPU."""
    return [device] if device.type == "cuda" else []
