"""Which blocks move when a unit is bound to a device: evictions, loads, stores and what stays.

Every decision here depends on the sequence of units bound to a device, and under a plan on the plan,
but never on time. That makes the command list of a plan one pure function of the plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrasim.capacity import arena_bytes, check_fits, zone_bytes
from hydrasim.command import Command, Kind, Lane
from hydrasim.dataflow import BlockKey, Dataflow, activations_of, block_bytes, dataflow, is_last_update, state_keys
from hydrasim.host_memory import Emit, HostMemory
from hydrasim.host_updates import outdates_copies, update_on_host
from hydrasim.loads import Loads, missing_bytes
from hydrasim.memory import NEVER, Arena, Block
from hydrasim.workload import ActivationMode, Phase, ShardUnit, TrainingJob, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hydrasim.cluster import Cluster
    from hydrasim.future import Future
    from hydrasim.mechanism import Mechanism
    from hydrasim.recovery import Attempt


class Residency:
    """Blocks of all devices, and the commands that binding a unit takes. host: where they are at home."""

    def __init__(self, workload: Workload, cluster: Cluster, mechanism: Mechanism, future: Future | None) -> None:
        self._jobs = dict(workload.by_name)
        self._cluster, self._mechanism, self._future = cluster, mechanism, future
        check_fits(workload, cluster, mechanism)
        self.host = HostMemory(workload, cluster, mechanism, future)
        self.arenas = [Arena(nbytes) for nbytes in arena_bytes(workload, cluster)]
        zones = [zone_bytes(arena.capacity, mechanism) for arena in self.arenas]
        self._loads = [Loads(device, mechanism, self.host, zone) for device, zone in enumerate(zones)]
        self._lazy = {(job.name, index) for job in workload.jobs for index in self._lazy_on(job)}
        self._holders: dict[BlockKey, list[int]] = {}
        self._bound = [0] * len(self.arenas)
        self._last_compute: list[int] = [NEVER] * len(self.arenas)
        self.evicted: tuple[str, ...] = ()

    def add(self, job: TrainingJob, workload: Workload) -> None:
        """Know of one more job, beside those of a workload, in the arenas as they are.

        Raises:
            ShardTooLarge, HostMemoryTooSmall: there is no room for it.
        """
        check_fits(workload, self._cluster, self._mechanism, added=job)
        self.host.add(job)
        self._jobs[job.name] = job
        self._lazy |= {(job.name, index) for index in self._lazy_on(job)}

    def stop(self, job: TrainingJob, unit: ShardUnit, emit: Emit) -> None:
        """Have a job end early, as this one does: its state goes home from where it was to stay for more updates."""
        self._jobs[job.name] = job
        self.bring_home(job, unit, emit)

    def bring_home(self, job: TrainingJob, unit: ShardUnit, emit: Emit) -> set[int]:
        """Store what devices have newer of a job's state; return the commands after which all of it is at home."""
        homes = self.host.homes
        for key in state_keys(job):
            device = homes[key].dirty_on
            if device is not None:
                self._store(self.arenas[device].blocks[key], unit._replace(shard=key.shard), device, emit)
        return {number for key in state_keys(job) if (number := homes[key].ready) is not None}

    def undo(self, attempt: Attempt, unfinished: set[int]) -> None:
        """Take back what binding a unit did, but for the room that was made for it."""
        self.host.undo(attempt.changes)
        [compute] = [command for command in attempt.commands if command.kind is Kind.COMPUTE]
        flow = dataflow(self._jobs[attempt.unit.job], attempt.unit, compute.mode)
        blocks = self.arenas[attempt.device].blocks
        filled = {c.block for c in attempt.commands if c.kind is Kind.LOAD and c.number in unfinished}
        for key in [key for key in blocks if key in filled or key in flow.writes]:
            self._retire(blocks[key], attempt.device, was_filled=False)

    def lose(self, device: int, gone: set[int], lost_stores: Iterable[BlockKey]) -> set[str]:
        """Have a device empty; return the jobs whose newest state was there alone. gone: see `HostMemory.lose`.

        lost_stores: the blocks that were on their way from it.
        """
        old = self.arenas[device]
        for key in old.blocks:
            self._holders[key].remove(device)
        self.arenas[device] = Arena(old.capacity)
        self.arenas[device].peak_bytes = old.peak_bytes
        self._last_compute[device] = NEVER
        on_way = {key.job for key in lost_stores if key.kind == "w" and (key.job, device) in self._lazy}
        return self.host.lose(device, gone) | on_way

    def reset(self, job: TrainingJob, ready: int) -> None:
        """Have nothing of a job anywhere but its state in host memory, which a command makes current."""
        self._leave_devices(job)
        self.host.reset(job, ready)

    def give_up(self, job: TrainingJob) -> None:
        """Have nothing of a job anywhere."""
        self._leave_devices(job)
        self.host.give_up(job)

    def _leave_devices(self, job: TrainingJob) -> None:
        for device, arena in enumerate(self.arenas):
            for key in [key for key in arena.blocks if key.job == job.name]:
                self._retire(arena.blocks[key], device, was_filled=False)

    def fetched(self, key: BlockKey, command: Command) -> None:
        """Note which command brings a mini-batch into host memory."""
        self.host.create(key, ready=command.number)

    def mode(self, unit: ShardUnit, device: int) -> ActivationMode:
        """Return what would become of a forward's activations, or how a backward would find them, if bound now.

        Kept activations are lost when they are evicted; and those that another device's process made are of no use,
        since a graph of them cannot travel. Under a plan a forward keeps nothing whose backward is elsewhere, or
        for which the plan says so.
        """
        job = self._jobs[unit.job]
        mode, key = job.activation_mode, activations_of(job, unit)
        if key is None:
            return mode
        if unit.phase is Phase.FORWARD:
            return mode if self._future is None or self._future.keeps(key, unit, device) else "recompute"
        home = self.host.homes.get(key)
        found = home is not None and home.made_on == device
        return mode if found or key in self.arenas[device].blocks else "recompute"

    def missing_bytes(self, unit: ShardUnit, device: int) -> int:
        return missing_bytes(self.arenas[device], self._flow(unit, device))

    def bind(self, unit: ShardUnit, device: int, predecessors: set[int], emit: Emit) -> Command:
        """Emit everything that the unit takes on the device; return its compute command."""
        flow = self._flow(unit, device)
        self.evicted = ()
        self._demote(unit, device, flow, emit)
        self._settle_elsewhere(unit, device, flow, emit)
        if not self._place_all(unit, device, flow, emit):
            flow = self._pack(unit, device, emit)
        loads = self._loads[device].load(unit, self.arenas[device], flow, self._last_compute[device], emit)
        compute = self._compute(unit, device, flow, predecessors | loads, emit)
        self._store_outputs(unit, device, flow, compute, emit)
        self._update_on_host(unit, flow, compute.number, emit)
        self.host.bound(unit, device)
        self._bound[device] += 1
        self._last_compute[device] = compute.number
        return compute

    def _lazy_on(self, job: TrainingJob) -> list[int]:
        """Return the devices on which a job's state stays for more updates."""
        how, need = self._mechanism.write_back, sum(block_bytes(job, key) for key in state_keys(job))
        return [i for i, arena in enumerate(self.arenas) if how == "lazy" or (how == "auto" and need <= arena.capacity)]

    def _flow(self, unit: ShardUnit, device: int) -> Dataflow:
        return dataflow(self._jobs[unit.job], unit, self.mode(unit, device))

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
        dirty_on = self.host.homes[flow.state].dirty_on
        if dirty_on is not None and dirty_on != device:
            self._store(self.arenas[dirty_on].blocks[flow.state], unit, dirty_on, emit)
        if flow.updates_state:
            self._retire_all(flow.state, but=device)

    def _place_all(self, unit: ShardUnit, device: int, flow: Dataflow, emit: Emit) -> bool:
        """Give every block of the unit an address; tell whether fragments of its own blocks left room."""
        arena, sizes = self.arenas[device], self._sizes(unit, flow)
        pinned = set(sizes)
        for key in sorted((key for key in sizes if key not in arena.blocks), key=lambda key: -sizes[key]):
            # Copies on the compute lane never overlap, so waiting for the unit before costs them nothing.
            previous = NEVER if self._mechanism.synchronous_copies else self._last_compute[device]
            choice = arena.choose(sizes[key], pinned, previous, low=key.kind == "w")
            if choice is None:
                return False
            offset, victims = choice
            for victim in victims:
                self._evict(victim, unit, device, emit)
            self._put(key, sizes[key], offset, device)
        return True

    def _pack(self, unit: ShardUnit, device: int, emit: Emit) -> Dataflow:
        """Start over from an empty arena, where kept activations are lost; return what that makes of the unit."""
        for block in list(self.arenas[device].blocks.values()):
            self._evict(block, unit, device, emit)
        flow = self._flow(unit, device)
        sizes = self._sizes(unit, flow)
        own = set(map(str, sizes))  # these only move
        self.evicted = tuple(name for name in self.evicted if name not in own)
        offset = 0
        for key, nbytes in sizes.items():
            self._put(key, nbytes, offset, device)
            offset += nbytes
        return flow

    def _sizes(self, unit: ShardUnit, flow: Dataflow) -> dict[BlockKey, int]:
        sizes = {key: block_bytes(self._jobs[unit.job], key) for key in flow.touched}
        return {key: nbytes for key, nbytes in sizes.items() if nbytes}

    def _put(self, key: BlockKey, nbytes: int, offset: int, device: int) -> None:
        self._holders.setdefault(key, []).append(device)
        self.arenas[device].place(key, nbytes, offset)

    def _compute(self, unit: ShardUnit, device: int, flow: Dataflow, after: set[int], emit: Emit) -> Command:
        blocks = self.arenas[device].blocks
        for key in flow.writes:
            for segment in blocks[key].segments if key in blocks else ():
                after |= segment.guards
        state = blocks.get(flow.state)
        if flow.updates_state and state is not None and state.last_store != NEVER:
            after.add(state.last_store)
        touched = [blocks[key] for key in flow.touched if key in blocks]
        places = tuple((block.key, block.offset) for block in touched)
        live_bytes = self.arenas[device].used_bytes
        compute = emit(
            Kind.COMPUTE, Lane.COMPUTE, device, unit, after, places=places, mode=flow.mode, live_bytes=live_bytes
        )
        for block in touched:
            block.last_compute = compute.number
            block.last_use = self._bound[device]
        if flow.updates_state and state is not None:
            state.dirty = True
            self.host.homes[flow.state].dirty_on = device
        return compute

    def _store_outputs(self, unit: ShardUnit, device: int, flow: Dataflow, compute: Command, emit: Emit) -> None:
        """Store boundaries at once and state when due; then let go of what nobody here will use."""
        blocks = self.arenas[device].blocks
        for key in flow.writes:
            if key in blocks:
                blocks[key].valid_bytes = blocks[key].nbytes
                if key.kind == "a" and flow.mode == "keep":
                    continue
                self.host.create(key, made_on=device)
                self._store(blocks[key], unit, device, emit)
                if not self._mechanism.skip_spill:
                    self._retire(blocks[key], device)
        for key in flow.consumes:
            self._retire_all(key)
            self.host.forget(key)
        state = blocks.get(flow.state)
        if (
            state is not None
            and state.valid_bytes
            and (
                (self._mechanism.store_clean and self.host.takes(state))
                or (state.dirty and self._store_now(unit, device, flow))
            )
        ):
            self._store(state, unit, device, emit)
        if self._future is not None:
            self._foresee(unit, device, flow)

    def _update_on_host(self, unit: ShardUnit, flow: Dataflow, compute: int, emit: Emit) -> None:
        """Have the optimizers step that are in host memory, and let go of what is old or spent then."""
        job = self._jobs[unit.job]
        if outdates_copies(job, unit):
            self._retire_all(flow.state)
        for key in update_on_host(job, unit, compute, self.host, emit):
            self._retire_all(key)
            self.host.forget(key)

    def _store_now(self, unit: ShardUnit, device: int, flow: Dataflow) -> bool:
        if is_last_update(self._jobs[unit.job], unit) or (unit.job, device) not in self._lazy:
            return True
        return self._future is not None and not self._future.stays(unit, device)

    def _foresee(self, unit: ShardUnit, device: int, flow: Dataflow) -> None:
        """Under a plan every block's next use here is known; what has none makes room at once."""
        assert self._future is not None
        blocks = self.arenas[device].blocks
        for key in flow.touched:
            if key in blocks:
                next_use = self._future.next_use(key, unit, device)
                if next_use is None:
                    self._retire(blocks[key], device)
                elif self._mechanism.eviction == "next-use":
                    blocks[key].next_use = next_use

    def _evict(self, block: Block, unit: ShardUnit, device: int, emit: Emit) -> None:
        if block.dirty:
            self._store(block, unit, device, emit)
        self.evicted += (str(block.key),)
        self._retire(block, device)

    def _store(self, block: Block, unit: ShardUnit, device: int, emit: Emit) -> None:
        lane = Lane.COMPUTE if self._mechanism.synchronous_copies else Lane.D2H
        nbytes = block.nbytes if block.dirty or block.key.kind != "w" else block.valid_bytes
        after = self.host.before_store(block, nbytes, unit, emit)
        if block.last_compute != NEVER:
            after.add(block.last_compute)
        command = emit(Kind.STORE, lane, device, unit, after, block, 0, nbytes)
        self.host.stored(block, command)
        block.last_store, block.dirty = command.number, False

    def _retire_all(self, key: BlockKey, but: int | None = None) -> None:
        """Give up a block on all devices, or all but one."""
        for holder in list(self._holders.get(key, ())):
            if holder != but:
                self._retire(self.arenas[holder].blocks[key], holder)

    def _retire(self, block: Block, device: int, *, was_filled: bool = True) -> None:
        self._holders[block.key].remove(device)
        if not self._holders[block.key]:
            del self._holders[block.key]
        self.arenas[device].retire(block, was_filled=was_filled)
