"""One stream a job: what is saved is what is drawn next."""

from __future__ import annotations

import random

import numpy
import torch

from executor import randomness
from tests.executor.worlds import random_state_kept


def draw():
    return torch.rand(2).tolist(), numpy.random.rand(2).tolist(), [random.random(), random.random()]


def test_a_restored_state_draws_the_same_again():
    with random_state_kept():
        randomness.seed_all(3)
        state = randomness.save()
        first = draw()
        assert draw() != first
        randomness.restore(state)
        assert draw() == first


def test_seeding_fixes_all_three_streams():
    with random_state_kept():
        randomness.seed_all(2**40 + 5)  # numpy takes 32 bits only
        first = draw()
        randomness.seed_all(2**40 + 5)
        assert draw() == first
        randomness.seed_all(6)
        assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_a_devices_own_stream_passes_by_a_process_without_it():
    with random_state_kept():
        device = torch.Generator().manual_seed(5)
        torch.rand(1, generator=device)
        left_on_device = randomness.save(device)
        wanted = torch.rand(2, generator=device)
        by_loader = randomness.save()
        randomness.restore(by_loader, device, seed=5, last_on_device=left_on_device)
        assert torch.equal(torch.rand(2, generator=device), wanted)
        randomness.restore(by_loader, device, seed=5)  # never on the device yet: from the seed
        assert not torch.equal(torch.rand(2, generator=device), wanted)
        assert device.initial_seed() == 5


def test_a_state_fits_its_place_in_the_host_store():
    assert len(randomness.save()) + 8 <= randomness.MAX_BYTES
