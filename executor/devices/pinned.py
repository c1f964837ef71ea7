"""Registers the host store with CUDA, piece by piece as it comes into use, so that copies need no staging.

    0                      store in use at the start        spare 1      spare 2
    |----------- registered when the run begins ------------|-- later ---|-- later --|   addresses only ...

One copy must not cross two registrations, so `pieces` cuts it where they meet. The part of the store that is
only addresses is left alone: registering would put memory behind it.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every context of this process
_logger = logging.getLogger(__name__)


class PinnedHost:
    """Host memory of which a growing first part is registered with CUDA.

    cudart: the CUDA runtime's functions. forget_error: called after a refusal, which else the next kernel
    launch would report as its own. Where CUDA refuses, the rest stays pageable and a warning says so, once.
    """

    def __init__(self, cudart: Any, memory: torch.Tensor, used_bytes: int, forget_error: Callable[[], None]) -> None:
        self._cudart, self._memory, self._forget_error = cudart, memory, forget_error
        self._ends: list[int] = []  # of the registered ranges, which follow one another from 0
        self._refused = False
        self._lock = threading.Lock()
        self._extend(used_bytes)

    @property
    def registered_bytes(self) -> int:
        return self._ends[-1] if self._ends else 0

    def pieces(self, part: torch.Tensor) -> Iterator[slice]:
        """Cut a part of the memory so that no piece crosses the end of a registration, registering it first."""
        start = part.data_ptr() - self._memory.data_ptr()
        with self._lock:
            self._extend(start + len(part))
            inner = [end - start for end in self._ends if start < end < start + len(part)]
        yield from itertools.starmap(slice, itertools.pairwise([0, *inner, len(part)]))

    def close(self) -> None:
        """Undo every registration; call it before the memory is unmapped."""
        for start in [0, *self._ends[:-1]] if self._ends else []:
            self._cudart.cudaHostUnregister(self._memory.data_ptr() + start)
        self._ends.clear()

    def _extend(self, end: int) -> None:
        start = self.registered_bytes
        end = min(len(self._memory), -(-end // mmap.PAGESIZE) * mmap.PAGESIZE)
        if self._refused or end <= start:
            return
        code = int(self._cudart.cudaHostRegister(self._memory.data_ptr() + start, end - start, _PORTABLE))
        if code == 0:
            self._ends.append(end)
            return
        self._refused = True
        self._forget_error()
        _logger.warning(
            "CUDA refused to register %s bytes of host memory (error %d). Copies of them go through the driver's own "
            "buffers instead: they are slower, and hidden behind compute less well. Results stay the same. In a "
            "container, allow more locked memory.",
            f"{end - start:,}",
            code,
        )
