"""What a core copies is measured, and leaves the number of threads as it was."""

import torch

from executor.copying import core_copy_bytes_per_s


def test_a_core_copies_at_some_plausible_speed():
    before = torch.get_num_threads()
    assert 1e7 < core_copy_bytes_per_s() < 1e13
    assert torch.get_num_threads() == before
