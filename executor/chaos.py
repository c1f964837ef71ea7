"""Chaos mode: random delays in every lane, and poison wherever nothing valid may be read yet.

If an ordering is wrong, a delay makes it show and the poison (all bits set: NaN in every float type)
makes it count: weights stop being byte-identical.
"""

from __future__ import annotations

import random
import time

import torch

from hydrasim.command import Command, Kind

_POISON = 0xFF
_MAX_DELAY_S = 0.004


class Chaos:
    """Delays and poison, drawn from a generator of its own."""

    def __init__(self, seed: int, arena: torch.Tensor) -> None:
        self._random = random.Random(seed)
        self._arena = arena
        arena.fill_(_POISON)

    def before(self, command: Command) -> None:
        """Poison where a load is going to land, then dawdle."""
        if command.kind is Kind.LOAD:
            start = command.offset + command.start
            self._arena[start : start + command.nbytes].fill_(_POISON)
        if self._random.random() < 0.5:
            time.sleep(self._random.random() * _MAX_DELAY_S)
