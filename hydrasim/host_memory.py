"""Host memory: where every block is at home, how much of it is in use, and the disk below it.

Boundaries and spilled activations always have their places there. State fills the rest; where that is too little
for all of it, state lives on disk, and host memory is a cache of it, whose accounts are kept as an arena's: room
is handed on as soon as the commands that last use it have been *issued*, and the new owner's commands wait for
those. So no run that begins can run out of it, or wait for ever.

    device  <--load--   |  boundaries, spilled activations  |  state, as much as fits  |   <--read---   disk
            --store-->                                                                     --write-->
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hydrasim.command import HOST, Kind, Lane
from hydrasim.dataflow import BlockKey, home_bytes, passing_keys, state_keys
from hydrasim.errors import HostMemoryTooSmall
from hydrasim.homes import Changes, Home, Ledger
from hydrasim.memory import Block

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.command import Command
    from hydrasim.future import Future
    from hydrasim.mechanism import Mechanism
    from hydrasim.workload import ActivationMode, ShardUnit, TrainingJob, Workload


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
        mode: ActivationMode | None = None,
        live_bytes: int = 0,
    ) -> Command: ...


class HostMemory:
    """The homes of all blocks. pages: state does not fit, and moves between host memory and disk.

    homes: by block; state has one all the time, other blocks from the command that creates their host copy until
    nobody needs them. peak_bytes: the most that the copies took, in the order in which commands were issued. At the
    end of a run all state is current in host memory or on disk; what only the former holds is not written.
    """

    def __init__(
        self, workload: Workload, cluster: Cluster, mechanism: Mechanism | None = None, future: Future | None = None
    ) -> None:
        self._jobs = dict(workload.by_name)
        self._limit = cluster.host_memory_bytes
        self._future = None if mechanism is not None and mechanism.eviction == "lru" else future
        keys = [key for job in workload.jobs for key in state_keys(job)]
        self.homes = {key: Home(home_bytes(self._jobs[key.job], key)) for key in keys}
        state_bytes = sum(home.nbytes for home in self.homes.values())
        passing_bytes = sum(map(_passing_bytes, workload.jobs))
        limit = self._limit
        self.pages = limit is not None and passing_bytes + state_bytes > limit
        if limit is not None and self.pages:
            _check(cluster, state_bytes, passing_bytes, max(home.nbytes for home in self.homes.values()))
            for home in self.homes.values():
                home.in_memory = not home.nbytes
        self._ledger = Ledger(limit - passing_bytes if limit is not None and self.pages else 0)
        self._used_bytes = self.peak_bytes = 0 if self.pages else state_bytes
        self._set_apart_bytes = passing_bytes + state_bytes
        self._newest_store: dict[tuple[str, str, int], int] = {}  # kind, job, shard of what has one place
        self._num_bound = 0
        self._keeps_changes = mechanism is not None and mechanism.recoverable
        self._changes: Changes = []
        self._newest: dict[int, int] = {}  # device -> bind sequence number of its newest unit

    def add(self, job: TrainingJob) -> None:
        """Give one more job's state its homes.

        Raises:
            HostMemoryTooSmall: not all of it would stay in memory; what is paged, is set from the beginning.
        """
        homes = {key: Home(home_bytes(job, key)) for key in state_keys(job)}
        state_bytes = sum(home.nbytes for home in homes.values())
        wanted = self._set_apart_bytes + state_bytes + _passing_bytes(job)
        if self._limit is not None and wanted > self._limit:
            raise HostMemoryTooSmall(
                f"job {job.name!r} cannot be added: with it the jobs need {wanted:,} bytes of host memory; the cluster "
                f"has host_memory_bytes {self._limit:,}."
            )
        self._set_apart_bytes = wanted
        self._jobs[job.name] = job
        self.homes |= homes
        self._count(state_bytes)

    def create(self, key: BlockKey, *, ready: int | None = None, made_on: int | None = None) -> None:
        """Give a block that is not state its home; state has one from the beginning."""
        if self._keeps_changes:
            self._changes.append((key, self.homes.get(key)))
        self.homes[key] = Home(home_bytes(self._jobs[key.job], key), ready, made_on=made_on)
        self._count(self.homes[key].nbytes)

    def forget(self, key: BlockKey) -> None:
        """Nobody needs the block any more; one that was never stored has no home."""
        home = self.homes.pop(key, None)
        if home is not None:
            if self._keeps_changes:
                self._changes.append((key, home))
            self._count(-home.nbytes)

    def taken_changes(self) -> Changes:
        """Return which homes of blocks other than state came and went since the last call, in order.

        Of a mechanism that is not recoverable nothing is kept.
        """
        changes, self._changes = self._changes, []
        return changes

    def undo(self, changes: Changes) -> None:
        """Take changes back; the newest ones first."""
        for key, before in reversed(changes):
            now = self.homes.pop(key, None)
            self._count((0 if before is None else before.nbytes) - (0 if now is None else now.nbytes))
            if before is not None:
                self.homes[key] = before
        self._changes.clear()

    def lose(self, device: int, gone: set[int]) -> set[str]:
        """Have what commands that are gone would have made be as it was; return the jobs whose newest state is lost.

        gone: those of the lost device and those that were withdrawn; what their units did was undone before.
        """
        damaged = {key.job for key, home in self.homes.items() if home.dirty_on == device}
        for key, home in list(self.homes.items()):
            if home.dirty_on == device:
                home.dirty_on = None
            if home.ready in gone:
                home.ready = None
            if key.kind == "a" and home.made_on == device:  # a graph that is gone cannot use them
                self.forget(key)
        self._newest_store = {place: number for place, number in self._newest_store.items() if number not in gone}
        self._changes.clear()
        return damaged

    def reset(self, job: TrainingJob, ready: int) -> None:
        """Have nothing of a job in memory but its state, which a command makes current."""
        for key in [key for key in self.homes if key.job == job.name and key.kind != "w"]:
            self.forget(key)
        for key in state_keys(job):
            self.homes[key].ready, self.homes[key].dirty_on = ready, None
        self._changes.clear()

    def give_up(self, job: TrainingJob) -> None:
        """Have nothing of a job in memory; its room is free once those are done that use it."""
        for key in [key for key in self.homes if key.job == job.name]:
            home = self.homes.pop(key)
            if self.pages and key.kind == "w" and home.in_memory:
                self._ledger.give(home.nbytes, home.users)
            if home.in_memory:
                self._count(-home.nbytes)
        self._changes.clear()

    def bound(self, unit: ShardUnit, device: int) -> None:
        """Note that a unit has used its state, and when that will be used next."""
        key = _state_of(unit)
        self.homes[key].last_use = self._newest[device] = self._num_bound
        if self._future is not None and self.pages:
            self.homes[key].next_use = self._future.next_turn(key, unit)
        self._num_bound += 1

    def before_load(self, key: BlockKey, unit: ShardUnit, emit: Emit) -> int | None:
        """Have the block in host memory; return the command that sees to it, if there is one."""
        home = self.homes[key]
        if not home.in_memory:
            after = self._make_room(home, unit, emit) | home.users
            command = self._move(Kind.READ, key, unit, after, emit)
            home.ready, home.users = command.number, {command.number}
        return home.ready

    def loaded(self, key: BlockKey, load: Command) -> None:
        if self.pages and key.kind == "w":
            self.homes[key].users.add(load.number)

    def takes(self, state: Block) -> bool:
        """Tell whether what a device has of a state can be stored: a part only beside the rest of it."""
        home = self.homes[state.key]
        return home.in_memory or state.dirty or state.valid_bytes == home.nbytes

    def before_update(self, key: BlockKey, unit: ShardUnit, emit: Emit) -> set[int]:
        """Have a state in host memory, where it is to be updated; return the commands that the update follows."""
        ready = self.before_load(key, unit, emit)
        return self.homes[key].users | (set() if ready is None else {ready})

    def updated(self, key: BlockKey, update: Command) -> None:
        """Note that host memory has a newer state than any device."""
        home = self.homes[key]
        home.ready = update.number
        if self.pages:
            home.users, home.unsaved = {update.number}, True

    def before_store(self, block: Block, nbytes: int, unit: ShardUnit, emit: Emit) -> set[int]:
        """Have room for a block's leading bytes in host memory; return the commands that the store follows."""
        key, home = block.key, self.homes[block.key]
        after: set[int] = set()
        if not home.in_memory:
            # Units store part of their state only after having loaded it, and so brought it here.
            assert nbytes == home.nbytes, f"{key} would be in host memory in part"
            after = self._make_room(home, unit, emit) | home.users
        if home.ready is not None:  # another device may still be storing an older version
            after.add(home.ready)
        if key.kind != "w" and key[:3] in self._newest_store:
            after.add(self._newest_store[key[:3]])  # of the mini-batch before, into the same place
        return after

    def stored(self, block: Block, store: Command) -> None:
        """Note that host memory is current again."""
        key, home = block.key, self.homes[block.key]
        home.ready, home.dirty_on = store.number, None
        if key.kind != "w":
            self._newest_store[key[:3]] = store.number
        elif self.pages:
            # Whatever loaded an older version served a unit before the one that made this version.
            home.users = {store.number} if block.dirty else home.users | {store.number}
            home.unsaved |= block.dirty

    def _make_room(self, home: Home, unit: ShardUnit, emit: Emit) -> set[int]:
        """Take room for a state's copy, from others if need be; return the commands to wait for."""
        own = _state_of(unit)
        while self._ledger.free_bytes < home.nbytes:
            others = (key for key, other in self.homes.items() if key.kind == "w" and other.in_memory and other.nbytes)
            self._evict(min(others, key=lambda key: self._rank(key, key == own)), unit, emit)
        home.in_memory = True
        self._count(home.nbytes)
        return self._ledger.take(home.nbytes)

    def _rank(self, key: BlockKey, own: bool) -> tuple[bool, bool, tuple[bool, int]]:
        """Rank a state's copy for eviction, smallest first.

        Last goes what the unit itself is about to load; before it what the newest unit of a device used, since
        waiting until it has been stored would keep the disk from its other work.
        """
        home = self.homes[key]
        return own, home.last_use in self._newest.values(), home.keep_value()

    def _evict(self, key: BlockKey, unit: ShardUnit, emit: Emit) -> None:
        """Give up a state's copy; the disk gets what it lacks, unless a device has newer."""
        home = self.homes[key]
        if home.unsaved and home.dirty_on is None:
            assert home.ready is not None
            home.users.add(self._move(Kind.WRITE, key, unit, {home.ready}, emit).number)
        home.in_memory = home.unsaved = False
        self._count(-home.nbytes)
        self._ledger.give(home.nbytes, home.users)

    def _move(self, kind: Kind, key: BlockKey, unit: ShardUnit, after: set[int], emit: Emit) -> Command:
        nbytes = self.homes[key].nbytes
        return emit(kind, Lane.DISK, HOST, unit, after, Block(key, 0, nbytes), 0, nbytes)

    def _count(self, nbytes: int) -> None:
        self._used_bytes += nbytes
        self.peak_bytes = max(self.peak_bytes, self._used_bytes)


def _passing_bytes(job: TrainingJob) -> int:
    return sum(home_bytes(job, key) for key in passing_keys(job))


def _state_of(unit: ShardUnit) -> BlockKey:
    return BlockKey("w", unit.job, unit.shard, -1)


def _check(cluster: Cluster, state_bytes: int, passing_bytes: int, largest_bytes: int) -> None:
    """Refuse what has no room in host memory, nor on the disk."""
    found = f"the cluster has host_memory_bytes {cluster.host_memory_bytes:,}"
    passing = f"{passing_bytes:,} for the boundaries and spilled activations of a mini-batch of every job"
    if cluster.disk is None:
        raise HostMemoryTooSmall(
            f"the jobs need {state_bytes + passing_bytes:,} bytes of host memory: {state_bytes:,} for state and "
            f"{passing}; {found} and no disk.\n  Give it a disk or more host memory, or train fewer jobs at a time."
        )
    assert cluster.host_memory_bytes is not None
    if largest_bytes + passing_bytes > cluster.host_memory_bytes:
        raise HostMemoryTooSmall(
            f"the jobs need {largest_bytes + passing_bytes:,} bytes of host memory beside the disk: {passing} and "
            f"{largest_bytes:,} for the largest shard's state; {found}.\n"
            "  Give it more, train fewer jobs at a time, cut the models into smaller shards, or recompute activations."
        )
