"""The first pair of a dataloader is looked at without using it up; what it holds is counted in samples."""

from __future__ import annotations

import pytest
import torch

from executor import randomness
from executor.batches import first_batch, num_samples
from executor.errors import JobError
from tests.executor.worlds import DATA, pairs


def test_looking_at_the_first_batch_uses_nothing_up():
    loader, before = DATA["noisy"](4), randomness.save()
    first, again = first_batch("A", loader), first_batch("A", loader)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert randomness.save() == before


def test_what_yields_no_pairs_is_refused_by_its_name():
    with pytest.raises(JobError, match="job 'A': the evaluate_on yields nothing"):
        first_batch("A", [], "evaluate_on")
    with pytest.raises(JobError, match="job 'A': the dataloader must yield"):
        first_batch("A", [torch.zeros(3)])
    with pytest.raises(JobError, match="job 'A': the dataloader failed on its first mini-batch: TypeError"):
        first_batch("A", 3)


@pytest.mark.parametrize(
    ("target", "output", "count"),
    [
        (pairs(1)[0][1], None, 3),
        ({"weight": torch.tensor(1.0), "label": torch.zeros(5, 2)}, None, 5),
        (None, torch.zeros(4), 4),
        (0, torch.tensor(1.0), 1),
    ],
)
def test_samples_are_counted_by_the_first_tensor_with_a_length(target, output, count):
    assert num_samples(target, output) == count
