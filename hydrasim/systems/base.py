"""What a rival system is: how much memory it needs, and the commands of one mini-batch of a job on its devices."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hydrasim.command import HOST, Command, Kind, Lane
from hydrasim.systems.passes import Passes
from hydrasim.workload import Phase, ShardUnit, TrainingJob, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hydrasim.cluster import Cluster
    from hydrasim.profile import CostModel


@dataclass(frozen=True)
class System(ABC):
    """A way to train one model on a group of devices; a frozen dataclass whose fields are its options.

    Its docstring ends with the source of what it does.
    """

    registered_name: ClassVar[str] = ""

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

    @abstractmethod
    def memory_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> list[int]:
        """Return what each device of the group must hold at once to train the job."""

    def host_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> int:
        """Return what host memory must hold at once to train the job."""
        return 0

    @abstractmethod
    def minibatch(self, build: Build, minibatch: int) -> None:
        """Emit the commands of one mini-batch; `build.barrier` holds what it must follow as a whole."""


class Build:
    """Emits one job's commands on one group of devices; numbers that it returns go into later commands' `after`.

    passes: what forwards and backwards of the job's shards take. barrier: commands that the next mini-batch
    follows; a system whose lanes alone do not keep the order sets it at the end of `System.minibatch`.
    """

    def __init__(
        self, job: TrainingJob, cluster: Cluster, devices: Sequence[int], costs: CostModel, commands: _Numbers
    ) -> None:
        self.job, self.cluster, self.devices = job, cluster, tuple(devices)
        self.passes = Passes(job, costs)
        self.barrier: frozenset[int] = frozenset()
        self._costs, self._commands = costs, commands

    def fetch(self, minibatch: int) -> int:
        """Have the loader produce a mini-batch; it works ahead of the training."""
        return self._emit(Kind.FETCH, Lane.HOST, HOST, minibatch, (), self._costs.fetch_s(self.job.name))

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
        latency_s = _latency_s(self.cluster, source, target)
        seconds = latency_s + nbytes / self.cluster.send_bytes_per_s(source, target)
        return self._emit(Kind.SEND, Lane.PEER, source, minibatch, after, seconds, nbytes, peer=target, shard=shard)

    def collective(
        self, nbytes: int, minibatch: int, after: Iterable[int] = (), shard: int = 0, rounds: int = 1
    ) -> list[int]:
        """Exchange a tensor of so many bytes among all devices around a ring; return each device's part.

        One round is an all-gather or a reduce-scatter: every device passes on (n - 1) / n of the tensor, in
        n - 1 steps; two are an all-reduce. All parts start together, when all that they follow is done.

        Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms (2009).
        """
        count, after = len(self.devices), tuple(after)
        steps, moved = rounds * (count - 1), rounds * nbytes * (count - 1) // count
        ring = [(device, self.devices[(order + 1) % count]) for order, device in enumerate(self.devices)]
        seconds = max(
            steps * _latency_s(self.cluster, source, target) + moved / self.cluster.send_bytes_per_s(source, target)
            if count > 1
            else 0.0
            for source, target in ring
        )
        return [
            self._emit(Kind.GATHER, Lane.PEER, device, minibatch, after, seconds, moved, shard=shard)
            for device in self.devices
        ]

    def update(self, device: int, nbytes: int, minibatch: int, after: Iterable[int] = (), shard: int = 0) -> int:
        """Step the optimizer on the host for a device's rank; nbytes: what host memory carries for it."""
        seconds = nbytes / self.cluster.host_bytes_per_s
        return self._emit(
            Kind.UPDATE, Lane.HOST, device, minibatch, after, seconds, nbytes, phase=Phase.UPDATE, shard=shard
        )

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
        command = Command(
            self._commands.next, kind, device, lane, unit, tuple(sorted({*after, *self.barrier})), nbytes=nbytes,
            peer=peer,
        )  # fmt: skip
        self._commands.append(command, seconds)
        return command.number


class _Numbers:
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


def _latency_s(cluster: Cluster, source: int, target: int) -> float:
    """Return how long bytes from one device take to begin to arrive at another."""
    out, back = cluster.devices[source].peer, cluster.devices[target].peer
    if out is not None and back is not None:
        return max(out.latency_s, back.latency_s)
    return cluster.devices[source].d2h.latency_s + cluster.devices[target].h2d.latency_s
