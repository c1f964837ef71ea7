"""Worker processes are started once a session, one pool for each number of devices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from executor import CpuDevice, DevicePool

MEMORY_BYTES = 176_000  # one whole transformer of `worlds` with its optimizer fits, two do not


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Compute as the workers do: the bits of large sums depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pools() -> Iterator[dict[int, DevicePool]]:
    made = {count: DevicePool([CpuDevice(MEMORY_BYTES)] * count) for count in (1, 2)}
    yield made
    for pool in made.values():
        pool.close()
