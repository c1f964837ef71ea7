"""One stream of randomness a job: torch, numpy and random, carried from unit to unit as bytes."""

from __future__ import annotations

import pickle
import random

import numpy
import torch

MAX_BYTES = 16384  # torch 5056, numpy 2504, random about 3200, pickled; room for a CUDA state


def seed_all(seed: int) -> None:
    """Seed as the reference loop does; numpy's global generator, which that leaves alone, gets the seed too."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


def save(cuda_device: int | None = None) -> bytes:
    """Return the state of every global generator."""
    cuda = None if cuda_device is None else torch.cuda.get_rng_state(cuda_device).numpy().tobytes()
    state = (torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy.random.get_state(), cuda)
    return pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL)


def restore(state: bytes, cuda_device: int | None = None, seed: int = 0) -> None:
    """Set every global generator; a stream that has never been on CUDA starts there from its seed."""
    cpu, python, numpy_state, cuda = pickle.loads(state)
    torch.set_rng_state(torch.frombuffer(bytearray(cpu), dtype=torch.uint8))
    random.setstate(python)
    numpy.random.set_state(numpy_state)
    if cuda_device is not None:
        if cuda is None:
            torch.cuda.manual_seed(seed)
        else:
            torch.cuda.set_rng_state(torch.frombuffer(bytearray(cuda), dtype=torch.uint8), cuda_device)
