"""Which bytes a unit has loaded, in which pieces: at once where memory is free, the rest when its turn comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrasim.command import Kind, Lane
from hydrasim.memory import NEVER, Arena, Block, Segment

if TYPE_CHECKING:
    from hydrasim.dataflow import Dataflow
    from hydrasim.host_memory import Emit, HostMemory
    from hydrasim.mechanism import Mechanism
    from hydrasim.workload import ShardUnit


class Loads:
    """Loads into one device's arena. ahead_bytes: how much of a unit may be loaded before the one before is over.

    None: as much as there is free memory for.
    """

    def __init__(self, device: int, mechanism: Mechanism, host: HostMemory, ahead_bytes: int | None) -> None:
        self._device, self._mechanism, self._host, self._ahead_bytes = device, mechanism, host, ahead_bytes

    def load(self, unit: ShardUnit, arena: Arena, flow: Dataflow, previous: int, emit: Emit) -> set[int]:
        """Emit the loads of what is missing; return their numbers. previous: the compute of the device's last unit."""
        missing = missing_bytes(arena, flow)
        ahead = self._ahead_bytes
        if ahead is not None and not self._mechanism.partial_prefetch and missing > ahead:
            ahead = 0
        lane = Lane.COMPUTE if self._mechanism.synchronous_copies else Lane.H2D
        loads: set[int] = set()
        for key, need in flow.reads:
            block = arena.blocks.get(key)
            if block is None or block.valid_bytes >= need:
                continue
            ready = self._host.before_load(key, unit, emit)
            for start, end, guards in self._slices(block, need, previous):
                for low, high in _cut(start, end, ahead):
                    after = set(guards)
                    if ahead is not None:
                        late = low >= start + ahead or not ahead
                        if late and previous != NEVER:
                            after.add(previous)
                    if ready is not None:
                        after.add(ready)
                    command = emit(Kind.LOAD, lane, self._device, unit, after, block, low, high - low)
                    loads.add(command.number)
                    self._host.loaded(key, command)
                if ahead is not None:
                    ahead = max(0, ahead - (end - start))
            block.valid_bytes = need
        return loads

    def _slices(self, block: Block, need: int, previous: int) -> list[Segment]:
        """Split the missing bytes into what is loaded ahead and what waits, where that is allowed."""
        if self._mechanism.partial_prefetch:
            return block.runs(need, previous)
        guards = frozenset[int]().union(*(segment.guards for segment in block.unwritten(need)))
        return [Segment(block.valid_bytes, need, guards)]


def missing_bytes(arena: Arena, flow: Dataflow) -> int:
    """Return how much of what a unit reads is not in an arena."""
    blocks = arena.blocks
    return sum(max(0, need - (blocks[key].valid_bytes if key in blocks else 0)) for key, need in flow.reads)


def _cut(start: int, end: int, ahead: int | None) -> list[tuple[int, int]]:
    """Split a range where the loading zone is full."""
    if ahead is None or ahead <= 0 or start + ahead >= end:
        return [(start, end)]
    return [(start, start + ahead), (start + ahead, end)]
