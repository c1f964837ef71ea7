"""One stream of randomness a job: torch, numpy and random, carried from unit to unit as bytes."""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping

import numpy
import torch

MAX_BYTES = 16384  # torch 5056, numpy 2504, random about 3200, pickled; a CUDA state is 16


def seed_all(seed: int) -> None:
    """Seed as the reference loop does; numpy's global generator, which that leaves alone, gets the seed too."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


def save(device: torch.Generator | None = None) -> bytes:
    """Return the state of every global generator, and of the device's own where it has one."""
    own = None if device is None else device.get_state().numpy().tobytes()
    state = (torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy.random.get_state(), own)
    return pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL)


def restore(
    state: bytes, device: torch.Generator | None = None, seed: int = 0, last_on_device: bytes | None = None
) -> None:
    """Set every global generator, and the device's own.

    A process without that device saves a state that lacks it; then it goes on from `last_on_device`, the
    state saved last where the device was. A stream that has never been on one starts there from its seed.
    """
    cpu, python, numpy_state, own = pickle.loads(state)
    torch.set_rng_state(_tensor(cpu))
    random.setstate(python)
    numpy.random.set_state(numpy_state)
    if device is not None:
        if own is None and last_on_device is not None:
            own = pickle.loads(last_on_device)[3]
        if own is None:
            device.manual_seed(seed)
        else:
            device.set_state(_tensor(own))


def tensors_of(state: bytes) -> dict[str, torch.Tensor]:
    """Return a saved state as plain tensors, by name."""
    cpu, (version, python, python_gauss), numpy_state, own = pickle.loads(state)
    _, words, place, has_gauss, numpy_gauss = numpy_state
    found = {
        "torch": _tensor(cpu),
        "python": torch.tensor([version, *python]),
        "python.gauss": torch.tensor([] if python_gauss is None else [python_gauss], dtype=torch.float64),
        "numpy": torch.tensor([*words.tolist(), place, has_gauss]),
        "numpy.gauss": torch.tensor([numpy_gauss], dtype=torch.float64),
    }
    return found if own is None else found | {"device": _tensor(own)}


def state_of(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return the state that `tensors_of` made into tensors.

    Raises:
        LookupError, ValueError, TypeError, RuntimeError: they are of no state.
    """
    if large := [name for name, tensor in tensors.items() if tensor.numel() > MAX_BYTES]:
        raise ValueError(f"{large[0]} is too large for a random state.")
    version, *python = tensors["python"].tolist()
    gauss = tensors["python.gauss"].tolist()
    *words, place, has_gauss = tensors["numpy"].tolist()
    numpy_state = ("MT19937", numpy.array(words, dtype=numpy.uint32), place, has_gauss, tensors["numpy.gauss"].item())
    random.Random().setstate((version, tuple(python), gauss[0] if gauss else None))
    numpy.random.RandomState().set_state(numpy_state)
    torch.Generator().set_state(tensors["torch"])
    own = tensors["device"].numpy().tobytes() if "device" in tensors else None
    cpu = tensors["torch"].numpy().tobytes()
    made = (cpu, (version, tuple(python), gauss[0] if gauss else None), numpy_state, own)
    return pickle.dumps(made, protocol=pickle.HIGHEST_PROTOCOL)


def _tensor(state: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8)
