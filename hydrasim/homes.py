"""The host copy of a block, and who may use room that was given up."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hydrasim.dataflow import BlockKey
from hydrasim.memory import NEVER


@dataclass(slots=True)
class Home:
    """The host copy of a block.

    ready: the command that makes it current. dirty_on: the device that has newer data. made_on: the device whose
    unit wrote it. in_memory: it takes up room, rather than lying on disk alone. unsaved: the disk lacks its
    contents. users: while there is a disk to care for, the commands that use the copy. last_use: bind sequence
    number of the last unit that needed it. next_use: place of the next one in the order of binding, under a plan.
    """

    nbytes: int = 0
    ready: int | None = None
    dirty_on: int | None = None
    made_on: int | None = None
    in_memory: bool = True
    unsaved: bool = False
    users: set[int] = field(default_factory=set)
    last_use: int = NEVER
    next_use: int | None = None

    def keep_value(self) -> tuple[bool, int]:
        """Rank for eviction, smallest first: what a device has newer, then as in an arena."""
        return self.dirty_on is None, self.last_use if self.next_use is None else -self.next_use


Changes = list[tuple[BlockKey, Home | None]]  # what homes blocks had before, None for none


class Ledger:
    """Free bytes, and the commands after which those that were given up may be used again."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes
        self._given_up: deque[tuple[int, frozenset[int]]] = deque([(free_bytes, frozenset())])

    def give(self, nbytes: int, guards: set[int]) -> None:
        self.free_bytes += nbytes
        self._given_up.append((nbytes, frozenset(guards)))

    def take(self, nbytes: int) -> set[int]:
        """Return the commands to wait for before that many bytes are used; those given up first go first."""
        assert nbytes <= self.free_bytes, f"{nbytes} bytes are wanted, {self.free_bytes} are free"
        self.free_bytes -= nbytes
        guards: set[int] = set()
        while nbytes:
            have, held = self._given_up.popleft()
            taken = min(have, nbytes)
            guards |= held
            nbytes -= taken
            if have > taken:
                self._given_up.appendleft((have - taken, held))
        return guards
