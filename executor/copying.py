"""Copies from memory to memory, and how fast one core makes them, which is what emulated devices' copies take of it."""

from __future__ import annotations

import time
from statistics import median

import torch

from executor.budget import uncounted

_WORD_BYTES = 8
_COPIED_BYTES, _COPY_PASSES = 64 << 20, 9  # more than caches hold


def copy_bytes(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy one uint8 tensor to another in words of eight, which torch does faster by a sixth; then what is left."""
    whole = 0
    if not (target.storage_offset() % _WORD_BYTES or source.storage_offset() % _WORD_BYTES):
        whole = len(target) // _WORD_BYTES * _WORD_BYTES
        with uncounted(target):
            to, words = target[:whole].view(torch.int64), source[:whole].view(torch.int64)
        to.copy_(words)
    if whole < len(target):
        target[whole:].copy_(source[whole:])


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
            copy_bytes(target, source)
            seconds.append(time.thread_time() - began_s)
    finally:
        torch.set_num_threads(num_threads)
    return _COPIED_BYTES / median(seconds)
