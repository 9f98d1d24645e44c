"""Sums by sample do not depend on the batches in which rows come."""

import numpy as np
import torch

from leakmech.mechanism.sums import KeyedSums


def test_rows_of_a_sample_add_up_over_batches_in_float64():
    sums = KeyedSums(["a", "b", "a", "c"], 2)
    sums.add(["b", "a"], torch.tensor([[1.0, 2.0], [1e8, 3.0]]))
    sums.add(["a", "a", "b"], torch.tensor([[1.0, 0.0], [1.0, 0.5], [4.0, 4.0]]))
    np.testing.assert_array_equal(sums.numpy(), [[1e8 + 2, 3.5], [5, 6], [0, 0]])


class OnMps(torch.Tensor):
    """A tensor of a device that has no float64."""

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_rows_of_a_device_without_float64_are_added():
    sums = KeyedSums("ab")
    sums.add("ba", torch.tensor([1.5, 2.0]).as_subclass(OnMps))
    assert sums.numpy().tolist() == [2, 1.5]


def test_rows_of_the_first_layers_count_there_only():
    sums = KeyedSums(range(2), 3, 2)
    sums.add([1, 1], torch.ones(2, 2, 2))
    np.testing.assert_array_equal(sums.numpy()[1], [[2, 2], [2, 2], [0, 0]])
    values = KeyedSums("xy")
    values.add("yy", torch.tensor([0.5, 0.25]))
    assert values.numpy().tolist() == [0, 0.75]
