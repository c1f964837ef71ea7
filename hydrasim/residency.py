"""Which blocks move when a unit is bound to a device: evictions, loads, stores and what stays.

Every decision here depends on the sequence of units bound to a device, and under a plan on the plan,
but never on time. That makes the command list of a plan one pure function of the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hydrasim.command import Command, Kind, Lane
from hydrasim.dataflow import ALIGNMENT, BlockKey, Dataflow, aligned, block_bytes, dataflow, unit_bytes
from hydrasim.errors import ShardTooLarge
from hydrasim.memory import NEVER, Arena, Block
from hydrasim.workload import Phase, ShardUnit, TrainingJob, Workload

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.future import Future
    from hydrasim.mechanism import Mechanism


class Emit(Protocol):
    """Number a command and put it on the list that goes to the backend."""

    def __call__(
        self,
        kind: Kind,
        lane: Lane,
        device: int,
        unit: ShardUnit,
        after: set[int],
        block: Block | None = None,
        start: int = 0,
        nbytes: int = 0,
        places: tuple[tuple[BlockKey, int], ...] = (),
    ) -> Command: ...


@dataclass(slots=True)
class Home:
    """The host copy of a block: the command that makes it current, and the device that has newer data."""

    ready: int | None = None
    dirty_on: int | None = None


class Residency:
    """Blocks of all devices, and the commands that binding a unit takes."""

    def __init__(self, workload: Workload, cluster: Cluster, mechanism: Mechanism, future: Future | None) -> None:
        self._jobs = workload.by_name
        self._mechanism = mechanism
        self._future = future
        working = aligned(workload.working_bytes)
        self.arenas = [Arena(max(0, device.memory_bytes - working)) for device in cluster.devices]
        zone = mechanism.loading_zone_fraction
        self._zones = [
            None if zone is None else int(arena.capacity * zone) // ALIGNMENT * ALIGNMENT for arena in self.arenas
        ]
        self._lazy = {
            (job.name, index)
            for job in workload.jobs
            for index, arena in enumerate(self.arenas)
            if mechanism.write_back == "lazy"
            or (mechanism.write_back == "auto" and _state_bytes(job) <= arena.capacity)
        }
        self._homes: dict[BlockKey, Home] = {}
        self._holders: dict[BlockKey, list[int]] = {}
        self._bound = [0] * len(self.arenas)
        self._last_compute: list[int] = [NEVER] * len(self.arenas)
        self.evicted: tuple[str, ...] = ()
        for index in range(len(self.arenas)):
            self._check_fits(workload, index, cluster.devices[index].memory_bytes)

    def fetched(self, key: BlockKey, command: Command) -> None:
        """Note which command brings a mini-batch into host memory."""
        self._homes[key] = Home(ready=command.number)

    def missing_bytes(self, unit: ShardUnit, device: int) -> int:
        blocks = self.arenas[device].blocks
        reads = dataflow(self._jobs[unit.job], unit).reads
        return sum(max(0, need - (blocks[key].valid_bytes if key in blocks else 0)) for key, need in reads)

    def bind(self, unit: ShardUnit, device: int, predecessors: set[int], emit: Emit) -> Command:
        """Emit everything that the unit takes on the device; return its compute command."""
        flow = dataflow(self._jobs[unit.job], unit)
        self.evicted = ()
        self._demote(unit, device, flow, emit)
        self._settle_elsewhere(unit, device, flow, emit)
        self._place_all(unit, device, flow, emit)
        loads = self._load_all(unit, device, flow, emit)
        compute = self._compute(unit, device, flow, predecessors | loads, emit)
        self._store_outputs(unit, device, flow, compute, emit)
        self._bound[device] += 1
        self._last_compute[device] = compute.number
        return compute

    def _check_fits(self, workload: Workload, index: int, memory_bytes: int) -> None:
        capacity = self.arenas[index].capacity - (self._zones[index] or 0)
        for job in workload.jobs:
            for shard in range(len(job.shards)):
                last = shard == len(job.shards) - 1
                phase = Phase.LOSS if job.fused and last else Phase.BACKWARD
                need = unit_bytes(job, ShardUnit(job.name, phase, shard, 0))
                if need > capacity:
                    raise ShardTooLarge(
                        f"shard {shard} of {job.name!r} needs {need:,} bytes for state, inputs and outputs; "
                        f"device {index} has {capacity:,} left of {memory_bytes:,} "
                        f"(activation peak {workload.working_bytes:,}, loading zone {self._zones[index] or 0:,}).\n"
                        "  Cut the model into more shards, lower loading_zone_fraction, or give more memory."
                    )

    def _demote(self, unit: ShardUnit, device: int, flow: Dataflow, emit: Emit) -> None:
        """Give up what the mechanism does not keep and the unit does not use."""
        keep = self._mechanism.keep
        if keep == "all":
            return
        used = {key for key, _ in flow.reads}
        for block in list(self.arenas[device].blocks.values()):
            stays = keep == "released" and block.key.kind == "w" and block.key.shard == 0 and block.key.job == unit.job
            if block.key not in used and not stays:
                self._evict(block, unit, device, emit)

    def _settle_elsewhere(self, unit: ShardUnit, device: int, flow: Dataflow, emit: Emit) -> None:
        """Have another device store newer state, and drop the copies that this unit makes stale."""
        home = self._homes.setdefault(flow.state, Home())
        if home.dirty_on is not None and home.dirty_on != device:
            block = self.arenas[home.dirty_on].blocks[flow.state]
            self._store(block, unit, home.dirty_on, emit)
        if flow.updates_state:
            for other in list(self._holders.get(flow.state, ())):
                if other != device:
                    self._retire(self.arenas[other].blocks[flow.state], other)

    def _place_all(self, unit: ShardUnit, device: int, flow: Dataflow, emit: Emit) -> None:
        """Give every block of the unit an address."""
        job, arena = self._jobs[unit.job], self.arenas[device]
        sizes = {key: block_bytes(job, key) for key in flow.touched}
        sizes = {key: nbytes for key, nbytes in sizes.items() if nbytes}
        pinned = set(sizes)
        for key in sorted((key for key in sizes if key not in arena.blocks), key=lambda key: -sizes[key]):
            # Copies on the compute lane never overlap, so waiting for the unit before costs them nothing.
            previous = NEVER if self._mechanism.synchronous_copies else self._last_compute[device]
            choice = arena.choose(sizes[key], pinned, previous, low=key.kind == "w")
            if choice is None:
                self._pack(unit, device, sizes, emit)
                return
            offset, victims = choice
            for victim in victims:
                self._evict(victim, unit, device, emit)
            self._put(key, sizes[key], offset, device)

    def _pack(self, unit: ShardUnit, device: int, sizes: dict[BlockKey, int], emit: Emit) -> None:
        """Start over from an empty arena: fragments of the unit's own blocks left no room."""
        for block in list(self.arenas[device].blocks.values()):
            self._evict(block, unit, device, emit)
        own = set(map(str, sizes))  # these only move
        self.evicted = tuple(name for name in self.evicted if name not in own)
        offset = 0
        for key, nbytes in sizes.items():
            self._put(key, nbytes, offset, device)
            offset += nbytes

    def _put(self, key: BlockKey, nbytes: int, offset: int, device: int) -> None:
        self._holders.setdefault(key, []).append(device)
        self.arenas[device].place(key, nbytes, offset)

    def _load_all(self, unit: ShardUnit, device: int, flow: Dataflow, emit: Emit) -> set[int]:
        """Load what is missing: at once where memory is free, the rest when the previous unit is over."""
        arena, previous = self.arenas[device], self._last_compute[device]
        ahead = self._zones[device]
        if ahead is not None and not self._mechanism.partial_prefetch and self.missing_bytes(unit, device) > ahead:
            ahead = 0
        lane = Lane.COMPUTE if self._mechanism.synchronous_copies else Lane.H2D
        loads: set[int] = set()
        for key, need in flow.reads:
            block = arena.blocks.get(key)
            if block is None or block.valid_bytes >= need:
                continue
            ready = self._homes[key].ready
            for start, end, guards in self._slices(block, need, previous):
                for low, high in _cut(start, end, ahead):
                    after = set(guards)
                    if ahead is not None:
                        late = low >= start + ahead or not ahead
                        if late and previous != NEVER:
                            after.add(previous)
                    if ready is not None:
                        after.add(ready)
                    command = emit(Kind.LOAD, lane, device, unit, after, block, low, high - low)
                    loads.add(command.number)
                if ahead is not None:
                    ahead = max(0, ahead - (end - start))
            block.valid_bytes = need
        return loads

    def _slices(self, block: Block, need: int, previous: int) -> list[tuple[int, int, frozenset[int]]]:
        """Split the missing bytes into runs that may be written early and runs that wait for the previous unit."""
        segments = block.unwritten(need)
        if not self._mechanism.partial_prefetch:
            return [(block.valid_bytes, need, frozenset().union(*(segment.guards for segment in segments)))]
        runs: list[tuple[int, int, frozenset[int]]] = []
        for start, end, guards in segments:
            late = max(guards, default=NEVER) >= previous
            if runs and late == (max(runs[-1][2], default=NEVER) >= previous):
                runs[-1] = (runs[-1][0], end, runs[-1][2] | guards)
            else:
                runs.append((start, end, guards))
        return sorted(runs, key=lambda run: (max(run[2], default=NEVER) >= previous, run[0]))

    def _compute(self, unit: ShardUnit, device: int, flow: Dataflow, after: set[int], emit: Emit) -> Command:
        blocks = self.arenas[device].blocks
        for key in flow.writes:
            for segment in blocks[key].segments if key in blocks else ():
                after |= segment.guards
        state = blocks.get(flow.state)
        if flow.updates_state and state is not None and state.last_store is not None:
            after.add(state.last_store)
        touched = [blocks[key] for key in flow.touched if key in blocks]
        places = tuple((block.key, block.offset) for block in touched)
        compute = emit(Kind.COMPUTE, Lane.COMPUTE, device, unit, after, places=places)
        for block in touched:
            block.guards = {compute.number}
            block.last_use = self._bound[device]
        if flow.updates_state and state is not None:
            state.dirty = True
            self._homes[flow.state].dirty_on = device
        return compute

    def _store_outputs(self, unit: ShardUnit, device: int, flow: Dataflow, compute: Command, emit: Emit) -> None:
        """Store boundaries at once and state when due; then let go of what nobody here will use."""
        blocks = self.arenas[device].blocks
        for key in flow.writes:
            if key in blocks:
                blocks[key].valid_bytes = blocks[key].nbytes
                self._homes[key] = Home()
                self._store(blocks[key], unit, device, emit)
                if not self._mechanism.skip_spill:
                    self._retire(blocks[key], device)
        for key in flow.consumes:
            for holder in list(self._holders.get(key, ())):
                self._retire(self.arenas[holder].blocks[key], holder)
            self._homes.pop(key, None)
        state = blocks.get(flow.state)
        if (
            state is not None
            and state.valid_bytes
            and (self._mechanism.store_clean or (state.dirty and self._store_now(unit, device, flow)))
        ):
            self._store(state, unit, device, emit)
        if self._future is not None:
            self._foresee(unit, device, flow)

    def _store_now(self, unit: ShardUnit, device: int, flow: Dataflow) -> bool:
        last = unit.minibatch == self._jobs[unit.job].num_minibatches - 1
        if (last and flow.updates_state) or (unit.job, device) not in self._lazy:
            return True
        return self._future is not None and not self._future.stays(unit, device)

    def _foresee(self, unit: ShardUnit, device: int, flow: Dataflow) -> None:
        """Under a plan every block's next use here is known; what has none makes room at once."""
        assert self._future is not None
        blocks = self.arenas[device].blocks
        for key in flow.touched:
            if key in blocks:
                blocks[key].next_use = self._future.next_use(key, unit, device)
                if blocks[key].next_use is None:
                    self._retire(blocks[key], device)

    def _evict(self, block: Block, unit: ShardUnit, device: int, emit: Emit) -> None:
        if block.dirty:
            self._store(block, unit, device, emit)
        self.evicted += (str(block.key),)
        self._retire(block, device)

    def _store(self, block: Block, unit: ShardUnit, device: int, emit: Emit) -> None:
        lane = Lane.COMPUTE if self._mechanism.synchronous_copies else Lane.D2H
        nbytes = block.nbytes if block.dirty or block.key.kind != "w" else block.valid_bytes
        home = self._homes[block.key]
        after = set(block.guards)
        if home.ready is not None:  # another device may still be storing an older version
            after.add(home.ready)
        command = emit(Kind.STORE, lane, device, unit, after, block, 0, nbytes)
        block.last_store, block.dirty = command.number, False
        home.ready, home.dirty_on = command.number, None

    def _retire(self, block: Block, device: int) -> None:
        self._holders[block.key].remove(device)
        if not self._holders[block.key]:
            del self._holders[block.key]
        self.arenas[device].retire(block)


def _state_bytes(job: TrainingJob) -> int:
    return sum(block_bytes(job, BlockKey("w", job.name, shard, -1)) for shard in range(len(job.shards)))


def _cut(start: int, end: int, ahead: int | None) -> list[tuple[int, int]]:
    """Split a range where the loading zone is full."""
    if ahead is None or ahead <= 0 or start + ahead >= end:
        return [(start, end)]
    return [(start, start + ahead), (start + ahead, end)]
