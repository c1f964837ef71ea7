"""Bytes are copied as they are; what a core copies is measured, and leaves the number of threads as it was."""

import pytest
import torch

from executor.copying import copy_bytes, core_copy_bytes_per_s


def test_a_core_copies_at_some_plausible_speed():
    before = torch.get_num_threads()
    assert 1e7 < core_copy_bytes_per_s() < 1e13
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("start", [0, 3, 8])
@pytest.mark.parametrize("nbytes", [0, 1, 7, 8, 29, 64])
def test_bytes_are_copied_whatever_their_number_and_place(start, nbytes):
    source = torch.randint(0, 256, (128,), dtype=torch.uint8)
    target = torch.zeros(128, dtype=torch.uint8)
    copy_bytes(target[start : start + nbytes], source[8 : 8 + nbytes])
    expected = torch.zeros(128, dtype=torch.uint8)
    expected[start : start + nbytes] = source[8 : 8 + nbytes]
    assert torch.equal(target, expected)
