"""Fixtures of all tests: tiny random models, their tokenizers (`tiny_models.py`), and the real embedded model."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path

# Before transformers is imported: no test may reach for a hub unless it says so.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import settings
from tiny_models import ARCHITECTURES, build_tiny, build_tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from leakmech.models.load import LoadedModel, load_model

pytest_plugins = [
    "faults",
    "finished_run",
    "model_variants",
]  # rows of faults; `run`; `tiny`, `noisy`, `hooked`, `continuations`

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """What has been imported stays; collecting garbage does not look through it again (a twentieth of the time)."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """One thread a process under xdist: several processes with several threads each only wait for each other."""
    if "OMP_NUM_THREADS" not in os.environ:
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., PreTrainedModel]:
    """``make_tiny(name, seed=0)``: a new tiny model that the test may change."""
    return build_tiny


@pytest.fixture(scope="session", params=ARCHITECTURES)
def tiny_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A tiny model of each architecture in turn, shared by the session: leave its weights as they are."""
    return build_tiny(request.param)


@pytest.fixture(scope="session")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The byte tokenizer with a chat template, ending turns with ``<|im_end|>``."""
    return build_tokenizer(chat=True)


@pytest.fixture(scope="session")
def plain_tokenizer() -> PreTrainedTokenizerFast:
    """The byte tokenizer without a chat template."""
    return build_tokenizer(chat=False)


@pytest.fixture(scope="session")
def tiny_loaded(tiny_model: PreTrainedModel, chat_tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    """`tiny_model` with the chat tokenizer, as :func:`load_model` returns it."""
    return load_model(tiny_model, tokenizer=chat_tokenizer)


@pytest.fixture
def save_tiny(tmp_path: Path) -> Callable[..., Path]:
    """``save_tiny(name="llama-gqa", seed=0, chat=True, tokenizer=True)``: the folder of a saved tiny model."""

    def save(name: str = "llama-gqa", *, seed: int = 0, chat: bool = True, tokenizer: bool = True) -> Path:
        folder = tmp_path / f"{name}-{seed}"
        build_tiny(name, seed).save_pretrained(folder)
        if tokenizer:
            build_tokenizer(chat=chat).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def embedded_model() -> LoadedModel:
    """The real model that comes from a package, in float32 on the CPU; for tests marked ``slow``."""
    return load_model("embedded:smollm2-135m-instruct", dtype="float32", device="cpu")


@pytest.fixture
def jsonl_file(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to ``mine.jsonl``, and give its path."""

    def write(*rows: object) -> Path:
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(own) + "\n" for own in rows))
        return path

    return write
