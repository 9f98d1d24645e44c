"""What the file system refuses is one line, whoever writes: Python, safetensors, or tokenizers."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from leakmech.core.errors import StorageError
from leakmech.core.store import storage_errors, write_text
from leakmech.core.tensor_files import write_tensors
from leakmech.studies.lora.merging import new_folder


@contextmanager
def small_files(n_bytes: int = 4_096) -> Iterator[None]:
    """The system refuses to let a file of this process grow larger, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.fault("R12", "hostile", "a full disk while safetensors writes a checkpoint", "one line; nothing is left")
def test_a_checkpoint_on_a_full_disk(tmp_path):
    path = tmp_path / "step-000004.safetensors"
    with small_files(), pytest.raises(StorageError) as refused:
        write_tensors(path, {"a": torch.zeros(10_000)})
    assert str(refused.value) == f"{path}: cannot be written (File too large); nothing was lost"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("R12", "hostile", "a full disk while a merged model is written", "one line; nothing is left")
def test_a_merged_model_on_a_full_disk(tmp_path, make_tiny):
    with small_files(), pytest.raises(StorageError) as refused, new_folder(tmp_path / "merged") as folder:
        make_tiny("gpt2").save_pretrained(folder)
    assert str(refused.value) == f"{tmp_path / 'merged'}: cannot be written (File too large)"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("X515", "hostile", "a full disk while a tokenizer is saved", "one line")
def test_a_tokenizer_on_a_full_disk(tmp_path, plain_tokenizer):
    with small_files(10), pytest.raises(StorageError, match=r"^x: .*\(File too large\)"), storage_errors("x"):
        plain_tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(StorageError, match=r"cannot be written \(Is a directory\)"), storage_errors("x"):
        save_file({"a": torch.zeros(1)}, tmp_path)


def test_another_failure_keeps_its_own_error(tmp_path):
    with pytest.raises(ValueError, match=r"^of the caller$"), storage_errors(tmp_path):
        raise ValueError("of the caller")
    with small_files(10), pytest.raises(StorageError, match=r"nothing was lost$"):
        write_text(tmp_path / "a.txt", "x" * 100)
