from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from leakmech.core.errors import ModelError
from leakmech.models import device as device_module
from leakmech.models.device import cpu_bfloat16_features, default_dtype, dtype_name, resolve_device, resolve_dtype

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture
def machine(monkeypatch):
    """`machine(cpu_features=..., avx512=..., cuda=..., cuda_bf16=..., mps=...)`: pretend to run on that machine."""

    def pretend(*, cpu_features=(), avx512=True, cuda=0, cuda_bf16=False, mps=False):
        monkeypatch.setattr(device_module, "_torch_uses_avx512", lambda: avx512)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(cpu_features, True) | {"avx2": True})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: cuda_bf16)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("device", "features", "cuda_bf16", "expected"),
    [
        (CPU, (), False, torch.float32),
        (CPU, ("avx512_bf16",), False, torch.bfloat16),
        (CPU, ("amx_bf16",), False, torch.bfloat16),
        (CUDA, (), True, torch.bfloat16),
        (CUDA, ("avx512_bf16",), False, torch.float32),  # the CPU beside an old GPU does not count
        (MPS, (), False, torch.float32),
    ],
)
def test_default_dtype_is_bfloat16_only_where_hardware_multiplies_it(machine, device, features, cuda_bf16, expected):
    machine(cpu_features=features, cuda=1, cuda_bf16=cuda_bf16, mps=True)
    assert default_dtype(device) is expected
    assert resolve_dtype(None, device=device) is resolve_dtype("auto", device=device) is expected


def test_cpu_features_are_named(machine):
    machine(cpu_features=("amx_bf16", "avx512_bf16", "avx512_fp16"))
    assert cpu_bfloat16_features() == ("avx512_bf16", "amx_bf16")


def test_what_the_processor_could_do_does_not_count_where_torch_does_not_use_it(machine):
    machine(cpu_features=("amx_bf16", "avx512_bf16"), avx512=False)
    assert cpu_bfloat16_features() == ()
    assert default_dtype(CPU) is torch.float32


@pytest.mark.parametrize("limit", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"])
def test_a_limit_on_instructions_in_the_environment_gives_float32(limit):
    code = "from leakmech.models.device import *; print(default_dtype(torch.device('cpu')))"
    variables = os.environ | {limit: "avx2", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables)
    assert done.stdout.strip() == "torch.float32", done.stderr


def test_dtypes_have_aliases_and_unknown_ones_name_the_nearest():
    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "float16": torch.float16}
    for name, dtype in names.items():
        assert resolve_dtype(name, device=CPU) is dtype
    assert resolve_dtype(torch.bfloat16, device=CPU) is torch.bfloat16
    assert dtype_name(torch.bfloat16) == "bfloat16"
    with pytest.raises(ModelError, match=r"^unknown dtype 'bfloat61'; did you mean 'bfloat16'\?$"):
        resolve_dtype("bfloat61", device=CPU)
    with pytest.raises(ModelError, match="unknown dtype 'int8'"):
        resolve_dtype(torch.int8, device=CPU)


def test_first_available_device_is_the_default(machine):
    machine(cuda=1, mps=True)
    assert resolve_device(None).type == resolve_device("auto").type == "cuda"
    machine(mps=True)
    assert resolve_device(None).type == "mps"
    machine()
    assert resolve_device(None).type == "cpu"


def test_unknown_and_unavailable_devices_say_what_there_is(machine):
    machine(cuda=2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    for name, said in (
        ("gpu", "unknown device 'gpu'"),
        ("cudo", "unknown device 'cudo'; did you mean 'cuda'?"),
        ("cuda:x", "unknown device 'cuda:x'; write 'cuda', 'cuda:0', 'mps' or 'cpu'"),
        ("cuda:2", "device 'cuda:2' is not available here; available: cuda, cpu"),
        ("mps", "device 'mps' is not available here; available: cuda, cpu"),
    ):
        with pytest.raises(ModelError) as caught:
            resolve_device(name)
        assert str(caught.value).startswith(said)
