"""What a rival system is: how much memory it needs, and the commands of one mini-batch of a job on its devices."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from hydrasim.command import HOST, Command, Kind, Lane
from hydrasim.errors import SystemRefused
from hydrasim.systems.passes import Passes
from hydrasim.workload import Phase, ShardUnit, TrainingJob, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hydrasim.cluster import Cluster
    from hydrasim.mechanism import Effects
    from hydrasim.profile import CostModel
    from hydrasim.systems.run import SystemRun


@dataclass(frozen=True)
class System(ABC):
    """A way to train one model on a group of devices; a frozen dataclass whose fields are its options.

    Its docstring ends with the source of what it does.
    """

    registered_name: ClassVar[str] = ""
    work_conserving: ClassVar[bool] = False  # it keeps to its own order, whatever devices idle

    @property
    def name(self) -> str:
        return self.name_of(type(self))

    @staticmethod
    def name_of(system: type[System]) -> str:
        """Return the name under which a system is known."""
        return system.registered_name or re.sub(r"(?<=[a-z])(?=[A-Z])", "-", system.__name__).lower()

    def groups(self, workload: Workload, cluster: Cluster) -> list[tuple[int, ...]]:
        """Return the groups of devices that train a job each at a time; all devices together by default."""
        return [tuple(range(len(cluster.devices)))]

    def training(self, workload: Workload, cluster: Cluster, costs: CostModel, effects: Effects) -> SystemRun:
        """Return what trains a workload by this system: job after job on each of its groups, by default."""
        from hydrasim.systems.run import SystemRun

        return SystemRun(workload, cluster, self, costs, effects, self.groups(workload, cluster))

    @abstractmethod
    def memory_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> list[int]:
        """Return what each device of the group must hold at once to train the job."""

    def host_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> int:
        """Return what host memory must hold at once to train the job: its state, which lies there before and after."""
        return job_state_bytes(job)

    def require(self, least: int, *options: str) -> None:
        """Refuse options below the least that they can be; None is no number, and passes."""
        for option in options:
            value = getattr(self, option)
            if value is not None and value < least:
                raise SystemRefused(f"{self.name}: {option} is {value}; it must be at least {least}.")

    @abstractmethod
    def minibatch(self, build: Build, minibatch: int) -> None:
        """Emit the commands of one mini-batch; `build.barrier` holds what it must follow as a whole."""


class Build:
    """Emits one job's commands on one group of devices; numbers that it returns go into later commands' `after`.

    passes: what forwards and backwards of the job's shards take. barrier: commands that the next mini-batch
    follows; a system whose lanes alone do not keep the order sets it at the end of `System.minibatch`.
    """

    def __init__(
        self, job: TrainingJob, cluster: Cluster, devices: Sequence[int], costs: CostModel, commands: CommandList
    ) -> None:
        self.job, self.cluster, self.devices = job, cluster, tuple(devices)
        self.passes = Passes(job, costs)
        self.barrier: frozenset[int] = frozenset()
        self._costs, self._commands = costs, commands
        self._send_s = cache(self._sent_s)

    def fetch(self, minibatch: int) -> int:
        """Have the loader produce a mini-batch; it works ahead of the training, whatever the barrier."""
        return self._emit(Kind.FETCH, Lane.HOST, HOST, minibatch, (), self._costs.fetch_s(self.job.name))

    def move_in(self, state_bytes: Mapping[int, int]) -> None:
        """Copy a job's state from host memory to where it stays, before all else; state_bytes: by device."""
        loads = [self.load(device, nbytes, 0) for device, nbytes in state_bytes.items() if nbytes]
        self.barrier = frozenset(loads) or self.barrier

    def move_out(self, state_bytes: Mapping[int, int]) -> None:
        """Copy a trained job's state back to host memory, after all else."""
        last = self.job.num_minibatches - 1
        for device, nbytes in state_bytes.items():
            if nbytes:
                self.store(device, nbytes, last)

    def feed(self, device: int, nbytes: int, minibatch: int, fetched: int) -> int:
        """Copy inputs or targets of a fetched mini-batch to a device, if there are any."""
        return self.load(device, nbytes, minibatch, [fetched]) if nbytes else fetched

    def compute(
        self, device: int, phase: Phase, shard: int, minibatch: int, seconds: float, after: Iterable[int] = ()
    ) -> int:
        """Compute for so many seconds on a device."""
        return self._emit(Kind.COMPUTE, Lane.COMPUTE, device, minibatch, after, seconds, phase=phase, shard=shard)

    def load(self, device: int, nbytes: int, minibatch: int, after: Iterable[int] = (), shard: int = 0) -> int:
        """Copy bytes from host memory to a device."""
        seconds = self._costs.copy_s(nbytes, device, "h2d") if nbytes else 0.0
        return self._emit(Kind.LOAD, Lane.H2D, device, minibatch, after, seconds, nbytes, shard=shard)

    def store(self, device: int, nbytes: int, minibatch: int, after: Iterable[int] = (), shard: int = 0) -> int:
        """Copy bytes from a device to host memory."""
        seconds = self._costs.copy_s(nbytes, device, "d2h") if nbytes else 0.0
        return self._emit(Kind.STORE, Lane.D2H, device, minibatch, after, seconds, nbytes, shard=shard)

    def send(
        self, source: int, target: int, nbytes: int, minibatch: int, after: Iterable[int] = (), shard: int = 0
    ) -> int:
        """Send bytes from one device to another."""
        seconds = self._send_s(source, target, nbytes)
        return self._emit(Kind.SEND, Lane.PEER, source, minibatch, after, seconds, nbytes, peer=target, shard=shard)

    def collective(
        self, nbytes: int, minibatch: int, after: Iterable[int] = (), shard: int = 0, rounds: int = 1,
        devices: Sequence[int] | None = None,
    ) -> list[int]:  # fmt: skip
        """Exchange a tensor of so many bytes among devices, all by default, around a ring; return each one's part.

        One round is an all-gather or a reduce-scatter: every device passes on (n - 1) / n of the tensor, in
        n - 1 steps; two are an all-reduce. All parts start together, when all that they follow is done.

        Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms (2009).
        """
        members = self.devices if devices is None else tuple(devices)
        count, after = len(members), tuple(after)
        steps, moved = rounds * (count - 1), rounds * nbytes * (count - 1) // count
        ring = [(device, members[(order + 1) % count]) for order, device in enumerate(members)]
        seconds = max(self._send_s(source, target, moved, steps) if count > 1 else 0.0 for source, target in ring)
        return [
            self._emit(Kind.GATHER, Lane.PEER, source, minibatch, after, seconds, moved, peer=target, shard=shard)
            for source, target in ring
        ]

    def update(self, device: int, nbytes: int, minibatch: int, after: Iterable[int] = (), shard: int = 0) -> int:
        """Step the optimizer on the host for a device's rank; nbytes: what host memory carries for it.

        It goes as fast as host memory and one core of the host can copy; where a cluster limits neither, there is
        plenty of both and it takes no time. On a measured profile `SystemRun.seconds` refuses that.
        """
        seconds = nbytes / min(self.cluster.host_bytes_per_s, self.cluster.core_copy_bytes_per_s)
        return self._emit(
            Kind.UPDATE, Lane.HOST, device, minibatch, after, seconds, nbytes, phase=Phase.UPDATE, shard=shard
        )

    def _sent_s(self, source: int, target: int, nbytes: int, steps: int = 1) -> float:
        """Return what bytes take from device to device, in so many steps; through the host, no less than copies do."""
        cluster, devices = self.cluster, self.cluster.devices
        seconds = steps * cluster.send_latency_s(source, target) + nbytes / cluster.send_bytes_per_s(source, target)
        part = nbytes // steps
        if not part or (devices[source].peer is not None and devices[target].peer is not None):
            return seconds
        copies_s = self._costs.copy_s(part, source, "d2h"), self._costs.copy_s(part, target, "h2d")
        return max(seconds, steps * max(copies_s))

    def _emit(
        self,
        kind: Kind,
        lane: Lane,
        device: int,
        minibatch: int,
        after: Iterable[int],
        seconds: float,
        nbytes: int = 0,
        *,
        phase: Phase = Phase.FORWARD,
        shard: int = 0,
        peer: int = HOST,
    ) -> int:
        unit = ShardUnit(self.job.name, phase, shard, minibatch)
        follows = tuple(sorted({*after, *(() if kind is Kind.FETCH else self.barrier)}))
        command = Command(self._commands.next, kind, device, lane, unit, follows, nbytes=nbytes, peer=peer)
        self._commands.append(command, seconds)
        return command.number


def task_groups(system: System, workload: Workload, cluster: Cluster, num_groups: int | None) -> list[tuple[int, ...]]:
    """Return so many groups of devices; None for the most such that every group holds every job, or one.

    Raises:
        SystemRefused: there are not that many devices.
    """
    count = len(cluster.devices)
    if num_groups is None:
        tried = (dealt(count, number) for number in range(count, 0, -1))
        return next((groups for groups in tried if _all_fit(system, workload, cluster, groups)), dealt(count, 1))
    if not 1 <= num_groups <= count:
        raise SystemRefused(f"{system.name}: num_groups is {num_groups}; there are {count} devices.")
    return dealt(count, num_groups)


def dealt(num_devices: int, num_groups: int) -> list[tuple[int, ...]]:
    """Deal devices out to groups of neighbours, as evenly as can be."""
    ends = [num_devices * group // num_groups for group in range(num_groups + 1)]
    return [tuple(range(start, end)) for start, end in pairwise(ends)]


def _all_fit(system: System, workload: Workload, cluster: Cluster, groups: Sequence[tuple[int, ...]]) -> bool:
    return all(
        need <= cluster.devices[device].memory_bytes
        for group in groups
        for job in workload.jobs
        for device, need in zip(group, system.memory_bytes(job, cluster, group), strict=True)
    )


def job_state_bytes(job: TrainingJob) -> int:
    """Return what a job's parameters and optimizer state weigh."""
    return sum(shard.state_bytes for shard in job.shards)


class CommandList:
    """The commands emitted since the last time they were taken, and what all that have not begun take."""

    def __init__(self) -> None:
        self.next = 0
        self.seconds: dict[int, float] = {}
        self._commands: list[Command] = []

    def append(self, command: Command, seconds: float) -> None:
        self.next += 1
        self.seconds[command.number] = seconds
        self._commands.append(command)

    def take(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands
