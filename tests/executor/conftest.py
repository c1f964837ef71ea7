"""Worker processes are started once a session, one pool for each number of devices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from executor import CpuDevice, DevicePool

MEMORY_BYTES = 176_000  # one whole transformer of `worlds` with its optimizer fits, two do not
ROOMY_BYTES = 350_000  # gradients twice and a loading zone beside it


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Compute as the workers do: the bits of large sums depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Pools(dict):
    """Pools by number of devices, or by that and the bytes of each; started when first asked for."""

    def __missing__(self, key: int | tuple[int, int]) -> DevicePool:
        count, memory_bytes = key if isinstance(key, tuple) else (key, MEMORY_BYTES)
        self[key] = DevicePool([CpuDevice(memory_bytes)] * count)
        return self[key]


@pytest.fixture(scope="session")
def pools() -> Iterator[Pools]:
    made = Pools()
    yield made
    for pool in made.values():
        pool.close()
