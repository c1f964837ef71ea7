"""Drives a rival system through the one loop, on the simulated backend: job after job on each group of devices."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hydrasim.charging import checked_s
from hydrasim.command import Command, Event, Failed, Finished, Happening, Kind
from hydrasim.errors import SystemRefused
from hydrasim.loop import run
from hydrasim.mechanism import DEFAULT_EFFECTS, EFFECTS, Effects, includes
from hydrasim.profile import CostModel, StatedCosts, label_of
from hydrasim.simulator import sim_backend
from hydrasim.systems.base import Build, CommandList, System, job_state_bytes
from hydrasim.systems.registry import make_system
from hydrasim.workload import TrainingJob, Workload, check_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from hydrasim.cluster import Cluster
    from hydrasim.timeline import Timeline

_PLENTY = 1 << 128  # bytes
_AHEAD = 2  # mini-batches in flight, so that lanes never run dry between two


def simulate_system(
    workload: Workload,
    cluster: Cluster,
    system: System | str,
    *,
    costs: CostModel | None = None,
    effects: Effects = DEFAULT_EFFECTS,
    seed: int = 0,
    commands: list[Command] | None = None,
    on_event: Callable[[Event], None] | None = None,
    keep_spans: bool = True,
) -> Timeline:
    """Simulate a rival system on a workload; the same objects go in and the same timeline comes out as of `simulate`.

    system: a system or its registered name. seed: of noise. keep_spans: see `hydrasim.loop.run`. Its
    header has the system's name as policy, and in `peak_bytes` what it states to need of each device.

    Raises:
        SystemRefused: it does not fit, as the real one would not, or does not exist.
    """
    check_size(workload)
    made = make_system(system) if isinstance(system, str) else system
    costs = StatedCosts(workload, cluster) if costs is None else costs
    training = made.training(workload, _roomy(cluster) if effects == "theory" else cluster, costs, effects)
    backend = sim_backend(workload, cluster, costs, effects, seed=seed, seconds=training.seconds)
    timeline = run(
        training, backend, commands=commands, on_event=on_event, keep_spans=keep_spans, seed=seed, costs=label_of(costs)
    )
    return replace(timeline, header=timeline.header | training.header)


def _roomy(cluster: Cluster) -> Cluster:
    """Return the cluster with all the memory in the world, so that in theory no system arranges itself by it."""
    devices = tuple(replace(device, memory_bytes=_PLENTY) for device in cluster.devices)
    return replace(cluster, devices=devices, host_memory_bytes=None)


@dataclass(eq=False)
class Group:
    """A group of devices, by what system it trains, the job it trains, and how much of it.

    num_issued, until: which mini-batches were issued, and which are to be. unfinished: commands, by mini-batch.
    """

    devices: tuple[int, ...]
    system: System
    build: Build | None = None
    num_issued: int = 0
    until: int = 0
    unfinished: deque[set[int]] = field(default_factory=deque)


class SystemRun:
    """A rival's orchestrator: events in, commands out, as the loop wants it.

    policy: the system, by whose name the timeline goes. peak_bytes: what it needs of each device. withdrawn: none, as a
    rival does not lose devices.
    """

    withdrawn: Sequence[int] = ()

    def __init__(
        self,
        workload: Workload,
        cluster: Cluster,
        system: System,
        costs: CostModel,
        effects: Effects,
        groups: Sequence[tuple[int, ...]],
    ) -> None:
        if effects not in EFFECTS:
            raise SystemRefused(f"effects {effects!r} is unknown; there are {', '.join(EFFECTS)}.")
        evaluated = next((job.name for job in workload.jobs if job.evaluation_minibatches), None)
        if evaluated is not None:
            raise SystemRefused(
                f"{system.name}: job {evaluated!r} has evaluation_minibatches, which rival systems do not run; compare "
                "without them."
            )
        self.workload, self.cluster, self.policy, self.effects = workload, cluster, system, effects
        self._costs, self._commands = costs, CommandList()
        self._groups = [Group(devices, system) for devices in groups]
        self.peak_bytes = [0] * len(cluster.devices)
        for job in workload.jobs:
            for group in self._groups:
                self._check_fits(job, group.devices)
        self._check_host(system, workload.jobs, groups)
        self._waiting = deque(job for job in workload.jobs if not job.arrival_s)
        self._num_left = len(workload.jobs)
        self._group_of: dict[int, Group] = {}

    @property
    def header(self) -> dict[str, Any]:
        """Return what a timeline says of the system."""
        return {"peak_bytes": self.peak_bytes, "system": self.policy.name}

    @property
    def finished(self) -> bool:
        return not self._num_left

    def seconds(self, command: Command) -> float:
        """Return what a command takes alone; under theory only computing takes time.

        Raises:
            ProfileError: that is no time. SystemRefused: it is none for an optimizer's step on a measured machine.
        """
        seconds = self._commands.seconds.pop(command.number)
        if command.kind is not Kind.COMPUTE and not includes(self.effects, "transfers"):
            return 0.0
        measured = label_of(self._costs) == "measured"
        if command.kind is Kind.UPDATE and command.nbytes and not seconds and measured:
            raise SystemRefused(
                f"{self.policy.name}: the optimizer's step on the host would take no time, since this measured cluster "
                "does not say how fast its memory is.\n  Give it host_bytes_per_s."
            )
        return checked_s(command, seconds)

    def start(self) -> list[Command]:
        """Return the commands that open the run."""
        return self._go_on()

    def handle(self, event: Event) -> list[Command]:
        """Take an event into account and return the commands that follow from it."""
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Finished):
            if not self._finish(event.command.number) and not self._is_due():
                return []
        elif isinstance(event, Happening):
            self._waiting.append(self.workload.job(event.job))
        return self._go_on()

    def _finish(self, number: int) -> bool:
        """Take note of a command's end; tell whether it was the last of a mini-batch."""
        group = self._group_of.pop(number)
        for commands in group.unfinished:
            commands.discard(number)
        if not group.unfinished or group.unfinished[0]:
            return False
        while group.unfinished and not group.unfinished[0]:
            group.unfinished.popleft()
        if not group.unfinished and group.num_issued == group.until:
            self._end(group)
        return True

    def _is_due(self) -> bool:
        """Tell whether there is something to do in the middle of a mini-batch."""
        return False

    def _end(self, group: Group) -> None:
        """Take note that a group has nothing left to do."""
        group.build = None
        self._num_left -= 1

    def _go_on(self) -> list[Command]:
        """Give idle groups their next job, and all groups enough mini-batches to go on with."""
        for group in self._groups:
            if group.build is None and self._waiting:
                self._begin(group, self._waiting.popleft())
        return [command for group in self._groups for command in self._issue(group)]

    def _begin(self, group: Group, job: TrainingJob, num_done: int = 0) -> Build:
        """Have a group train a job."""
        group.build = Build(job, self.cluster, group.devices, self._costs, self._commands)
        group.num_issued, group.until = num_done, job.num_minibatches
        return group.build

    def _issue(self, group: Group) -> list[Command]:
        issued: list[Command] = []
        while group.build is not None and len(group.unfinished) < _AHEAD and group.num_issued < group.until:
            group.system.minibatch(group.build, group.num_issued)
            group.num_issued += 1
            issued += self._take(group)
        return issued

    def _take(self, group: Group) -> list[Command]:
        """Return what was emitted for a group; it is unfinished now."""
        commands = self._commands.take()
        group.unfinished.append({command.number for command in commands})
        self._group_of.update(dict.fromkeys((command.number for command in commands), group))
        return commands

    def _check_fits(self, job: TrainingJob, devices: tuple[int, ...]) -> None:
        """Refuse a job that the real system would run out of memory with."""
        system, cluster = self.policy, self.cluster
        for device, need in zip(devices, system.memory_bytes(job, cluster, devices), strict=True):
            self.peak_bytes[device] = max(self.peak_bytes[device], need)
            if need > cluster.devices[device].memory_bytes:
                raise SystemRefused(
                    f"{system.name} on {len(devices)} devices needs {need:,} bytes of device {device} "
                    f"for {job.name!r}; it has {cluster.devices[device].memory_bytes:,}.\n"
                    "  Give it more devices or memory, or see whether an option of the system needs less."
                )

    def _check_host(self, system: System, jobs: Sequence[TrainingJob], groups: Sequence[tuple[int, ...]]) -> None:
        """Refuse to train these jobs, one a group at a time, if host memory has no room for what that adds to state.

        The state of all jobs of the workload lies there throughout, also of those that wait, as under SHARP.
        """
        if (room := self.cluster.host_memory_bytes) is None:
            return
        added = [
            max((system.host_bytes(job, self.cluster, group) for group in groups), default=0) - job_state_bytes(job)
            for job in jobs
        ]
        need = sum(map(job_state_bytes, self.workload.jobs)) + sum(sorted(added)[::-1][: len(groups)])
        if need > room:
            raise SystemRefused(
                f"{system.name} needs {need:,} bytes of host memory for the state of all jobs and to train "
                f"{len(groups)} at a time; there are {room:,}."
            )
