"""The least memory that is accepted, by bisection."""

from __future__ import annotations

from collections.abc import Callable

from hydrasim.errors import ShardTooLarge

_LARGEST_BYTES = 1 << 40


def smallest_memory(accepts: Callable[[int], object]) -> int:
    """Return the least memory in bytes with which a call does not raise ShardTooLarge.

    Raises:
        ShardTooLarge: not even a tebibyte is enough.
    """
    low, high = 0, 1 << 12
    while not _succeeds(accepts, high):
        low, high = high, 2 * high
        if high > _LARGEST_BYTES:
            accepts(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _succeeds(accepts, middle) else (middle, high)
    return high


def _succeeds(accepts: Callable[[int], object], memory_bytes: int) -> bool:
    try:
        accepts(memory_bytes)
    except ShardTooLarge:
        return False
    return True
