"""Chaos mode: random delays in every lane, and poison wherever nothing valid may be read yet.

If an ordering is wrong, a delay makes it show and the poison (all bits set: NaN in every float type)
makes it count: weights stop being byte-identical.
"""

from __future__ import annotations

import random
import time

from executor.devices import DeviceMemory
from hydrasim.command import Command, Kind

_POISON = 0xFF
_MAX_DELAY_S = 0.004


class Chaos:
    """Delays and poison, drawn from a generator of its own."""

    def __init__(self, seed: int, memory: DeviceMemory) -> None:
        self._random = random.Random(seed)
        self._memory = memory
        memory.fill(0, len(memory.arena), _POISON)

    def before(self, command: Command) -> None:
        """Poison where a load is going to land, then dawdle."""
        if command.kind is Kind.LOAD:
            self._memory.fill(command.offset + command.start, command.nbytes, _POISON)
        if self._random.random() < 0.5:
            time.sleep(self._random.random() * _MAX_DELAY_S)
