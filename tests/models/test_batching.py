"""Work that does not fit into memory is done in smaller batches."""

import numpy as np
import pytest
import torch

from leakmech.core.errors import ActivationError
from leakmech.models.batching import is_out_of_memory
from leakmech.scoring.classifiers import in_text_batches


class Tokenizer:
    """One token a letter."""

    def __call__(self, texts, *, truncation, max_length):
        assert truncation
        return {"input_ids": [[ord(letter) for letter in text[:max_length]] for text in texts]}

    def pad(self, inputs, *, return_tensors):
        assert return_tensors == "pt"
        rows = [torch.tensor(ids) for ids in inputs["input_ids"]]
        return {"input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)}


def scored(texts, *, room, error=None):
    """Rows (length, first letter) of texts, where memory holds `room` of them; and the sizes of the batches."""
    sizes = []

    def forward(inputs):
        ids = inputs["input_ids"]
        sizes.append(len(ids))
        if len(ids) > room:
            raise error or torch.OutOfMemoryError("CUDA out of memory")
        return torch.stack([(ids > 0).sum(dim=1), ids[:, 0]], dim=1).float()

    rows = in_text_batches(texts, tokenizer=Tokenizer(), max_tokens=8, device=torch.device("cpu"), forward=forward)
    return rows, sizes


def test_texts_keep_their_order_in_batches_that_were_halved():
    texts = [chr(97 + number) * (1 + number * 7 % 5) for number in range(20)]
    expected = np.array([[len(text), ord(text[0])] for text in texts], dtype=float)
    for room, sizes in ((16, [16, 4]), (5, [16, 8, 4, 4, 4, 4, 4])):
        rows, found = scored(texts, room=room)
        np.testing.assert_array_equal(rows, expected)
        assert rows.dtype == np.float64
        assert found == sizes


def test_a_text_that_does_not_fit_alone_is_named():
    with pytest.raises(ActivationError, match=r"^text 'bb': memory does not suffice for it alone"):
        scored(["a", "bb"], room=0)


SAID = {
    "std::bad_alloc": "bad alloc of C++",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": "cuBLAS without memory",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": "cuDNN without memory",
    "[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory: you tried": "the CPU's",
    "[Errno 12] Cannot allocate memory": "the system's own words",
    "Invalid buffer size: 64.00 GiB": "a buffer too large for MPS",
    "HIP out of memory. Tried to allocate 2.00 GiB": "HIP's",
}


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(said, marks=pytest.mark.fault(name, "hostile", f"memory runs out: {what}", "the batch is halved"))
        for (said, what), name in zip(SAID.items(), ["R22", "R22", *["X516"] * 5], strict=True)
    ],
)
def test_all_words_for_memory_that_runs_out_are_known(said):
    assert is_out_of_memory(RuntimeError(said))
    texts = ["a", "bb", "ccc", "dd"]
    rows, sizes = scored(texts, room=2, error=RuntimeError(said))
    np.testing.assert_array_equal(rows, [[len(text), ord(text[0])] for text in texts])
    assert sizes == [4, 2, 2]


def test_other_errors_are_not_taken_for_memory():
    for said in (
        "CUDA error: device-side assert triggered",
        "CUBLAS_STATUS_EXECUTION_FAILED",
        "allocation is forbidden",
    ):
        assert not is_out_of_memory(RuntimeError(said))
        with pytest.raises(RuntimeError):
            scored(["a", "bb"], room=1, error=RuntimeError(said))
