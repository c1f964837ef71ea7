"""What no residency, prefetch or eviction can avoid moving, in seconds, unit by unit and device by device.

Every time here is the least: over mechanisms, over what becomes of activations, and as if each copy were alone.

    device compute   == A ==|            |== B ==     what of B's state has no room beside A's unit is loaded after it,
    device h2d         ..B..|.. B rest ..|            and what has none beside A's state after A's update has left
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from hydrasim.capacity import arena_bytes
from hydrasim.dag import is_last_forward
from hydrasim.dataflow import ALIGNMENT, BlockKey, block_bytes, dataflow, is_last_update, updates_state
from hydrasim.optimum.copies import LeastCopies
from hydrasim.workload import ShardUnit, TrainingJob, Workload

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster, Direction
    from hydrasim.dataflow import Dataflow
    from hydrasim.optimum.problem import Problem
    from hydrasim.profile import CostModel


class Moves:
    """The seconds that moving state adds, for a problem whose pieces are single units, named by index.

    load_s, store_s: `[unit][device]`: of the state that a unit needs; of the update that it leaves, 0 for none.
    rest_s: `[device][first][second]`: the part of the second's load that cannot be before the end of the first.
    hop_s: `[unit][device]`: of the boundary that a unit reads, from the unit before on that device to another one.
    begin_s: `[unit][device]`: when it can begin at the earliest, by its job's arrival, its fetch and its load.
    room, unit_blocks, state_blocks: memory of devices, units and their states, in blocks of the alignment.
    depth: how many units a device may be busy with at once, one of them computing; None where that is not limited.
    """

    def __init__(
        self, problem: Problem, workload: Workload, cluster: Cluster, costs: CostModel, *, prefetch: bool = True
    ) -> None:
        self._workload, self._costs, self._copies = workload, costs, LeastCopies(workload, costs)
        self._positions = [piece.position for piece in problem.pieces]
        self.units = [piece.units[0] for piece in problem.pieces]
        self._rooms = arena_bytes(workload, cluster)
        self._devices = range(len(cluster.devices))
        self.load_s = [[self._copy_s(self._need(unit), d, "h2d") for d in self._devices] for unit in self.units]
        self.store_s = [[self._copy_s(self._update(unit), d, "d2h") for d in self._devices] for unit in self.units]
        indices = range(len(self.units))
        self.rest_s = [[[self._rest_s(i, j, d) for j in indices] for i in indices] for d in self._devices]
        self.hop_s = [[self._hop_s(j, d) for d in self._devices] for j in indices]
        self.begin_s = [[self._begin_s(unit, d) for d in self._devices] for unit in self.units]
        self.fetch_s = [costs.fetch_s(unit.job) for unit in self.units]
        self.room = [room // ALIGNMENT for room in self._rooms]
        self.unit_blocks = [self._bytes(unit) // ALIGNMENT for unit in self.units]
        self.state_blocks = [block_bytes(self._job(unit), _state(unit)) // ALIGNMENT for unit in self.units]
        # Where state pages between host memory and disk, a plan's units are bound in one order, some of them early.
        self.depth = None if cluster.host_memory_bytes is not None else 2 if prefetch else 1

    @cached_property
    def seconds(self) -> list[float]:
        """All times that there are, to find a tick that measures them."""
        tables = [*self.load_s, *self.store_s, *self.hop_s, *self.begin_s, self.fetch_s]
        tables += [row for rows in self.rest_s for row in rows]
        return sorted({value for row in tables for value in row})

    def version(self, j: int) -> tuple[int | None, list[int]]:
        """Return the update that a unit's state comes from, None for the state that its job begins with.

        And the units that had this state on their device so far, the latest first: that update, and a forward since.
        """
        holders = []
        for index in range(j - 1, j - 1 - self._positions[j], -1):
            if self.units[index].shard == self.units[j].shard:
                holders.append(index)
                if self.updates(index):
                    return index, holders
        return None, holders

    def others(self, j: int) -> list[int]:
        """Return the units of other states."""
        return [i for i, unit in enumerate(self.units) if _state(unit) != _state(self.units[j])]

    def updates(self, j: int) -> bool:
        """Tell whether a unit updates its state."""
        return updates_state(self._job(self.units[j]), self.units[j])

    def is_last_update(self, j: int) -> bool:
        """Tell whether a unit makes the last version of its state, which must be stored."""
        return is_last_update(self._job(self.units[j]), self.units[j])

    def follows(self, j: int) -> int | None:
        """Return the unit before in the same job."""
        return j - 1 if self._positions[j] else None

    def fetched_after(self, j: int) -> int | None:
        """Return the unit whose end lets the loader go on, for the first unit of a later mini-batch."""
        unit, job = self.units[j], self._job(self.units[j])
        if not unit.minibatch or self.units[j - 1].minibatch == unit.minibatch:
            return None
        return next(i for i in range(j - 1, -1, -1) if is_last_forward(job, self.units[i]))

    def _job(self, unit: ShardUnit) -> TrainingJob:
        return self._workload.job(unit.job)

    def _flows(self, unit: ShardUnit) -> list[Dataflow]:
        """Return what a unit may touch: in its job's mode, or recomputing."""
        return [dataflow(self._job(unit), unit), dataflow(self._job(unit), unit, "recompute")]

    def _bytes(self, unit: ShardUnit) -> int:
        """Return the room that a unit takes at least while it runs."""
        return min(sum(block_bytes(self._job(unit), key) for key in flow.touched) for flow in self._flows(unit))

    def _need(self, unit: ShardUnit) -> int:
        flow = self._flows(unit)[0]
        return next(need for key, need in flow.reads if key == flow.state)

    def _update(self, unit: ShardUnit) -> int:
        return block_bytes(self._job(unit), _state(unit)) if updates_state(self._job(unit), unit) else 0

    def _copy_s(self, nbytes: int, device: int, direction: Direction) -> float:
        return self._copies.seconds(nbytes, device, direction)

    def _rest_s(self, i: int, j: int, device: int) -> float:
        first, second = self.units[i], self.units[j]
        if _state(first) == _state(second):
            return 0.0
        room, need = self._rooms[device], self._need(second)
        behind_unit_s = self._copy_s(need - (room - self._bytes(first)), device, "h2d")
        beside_state = need - (room - self._update(first))
        if not self._update(first) or beside_state <= 0:
            return behind_unit_s
        return max(behind_unit_s, self.store_s[i][device] + self._copy_s(beside_state, device, "h2d"))

    def _hop_s(self, j: int, device: int) -> float:
        unit = self.units[j]
        if not self._positions[j] or self.units[j - 1].minibatch != unit.minibatch:
            return 0.0
        read = {key for key, _ in dataflow(self._job(unit), unit).reads}
        written = dataflow(self._job(unit), self.units[j - 1]).writes
        nbytes = sum(block_bytes(self._job(unit), key) for key in written if key in read and key.kind != "a")
        arrive_s = min((self._copy_s(nbytes, d, "h2d") for d in self._devices if d != device), default=0.0)
        return self._copy_s(nbytes, device, "d2h") + arrive_s

    def _begin_s(self, unit: ShardUnit, device: int) -> float:
        job = self._job(unit)
        if unit.minibatch or unit.shard:
            return job.arrival_s
        return job.arrival_s + max(self._costs.fetch_s(job.name), self._copy_s(self._need(unit), device, "h2d"))


def _state(unit: ShardUnit) -> BlockKey:
    return BlockKey("w", unit.job, unit.shard, -1)
