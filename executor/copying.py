"""How fast one core copies from memory to memory, which is what emulated devices' copies take of it."""

from __future__ import annotations

import time
from statistics import median

import torch

_COPIED_BYTES, _COPY_PASSES = 64 << 20, 9  # more than caches hold


def core_copy_bytes_per_s() -> float:
    """Measure what one core copies from memory to memory; the median of several passes.

    In seconds of the core, not of the clock, so that other work on the machine is hardly a part of it.
    """
    source, target = (torch.ones(_COPIED_BYTES, dtype=torch.uint8) for _ in range(2))
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what a device has
    try:
        seconds = []
        for _ in range(_COPY_PASSES):
            began_s = time.thread_time()
            target.copy_(source)
            seconds.append(time.thread_time() - began_s)
    finally:
        torch.set_num_threads(num_threads)
    return _COPIED_BYTES / median(seconds)
