"""Saturn: a solver chooses each job's technique, devices and turn, from what trials of a few mini-batches took."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hydrasim.command import Command, Event, Failed, Finished
from hydrasim.errors import SystemRefused
from hydrasim.loop import run
from hydrasim.mechanism import DEFAULT_EFFECTS, Effects, includes
from hydrasim.profile import MAX_SECONDS, StatedCosts
from hydrasim.simulator import sim_backend
from hydrasim.systems.base import Build, System, job_state_bytes
from hydrasim.systems.registry import parse_system
from hydrasim.systems.run import Group, SystemRun
from hydrasim.systems.spase import Choice, Placement, Solution, lower_bound_s, solve
from hydrasim.workload import TrainingJob, Workload

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.profile import CostModel

_TRIAL_MINIBATCHES = 3


@dataclass(frozen=True)
class Saturn(System):
    """Several jobs at a time, each by its own technique on its own devices, as a solver has planned it.

    The Trial Runner simulates a job alone for some mini-batches, by every technique on every number of devices, and
    extrapolates; what a technique refuses is left out. Trials take no time here, and meet no noise. The
    solver sees nothing else: that jobs side by side share buses and host memory is not in its plan. Devices that
    differ in anything, such as the bus they are on, are different nodes; a job stays within one. Host memory must
    have room for the state of all jobs and what each adds to it alone, not for what they add together.

    Introspection: at the first event after each interval the rest is planned again, at the same estimates; the new
    plan is taken if that ends it sooner by more than the threshold. A job that then changes its technique or devices
    ends the mini-batches under way, stores its state from one device, and loads it to one of the new ones; the others
    go on (the released code restarts all). A job that arrives later has all that is left planned again at once.

    techniques: systems, by name, with options if need be, such as fsdp:recompute=false; the defaults are Saturn's
    library, its FSDP with and without offload. device_counts: those to try, such as 1,2,4,8; "" for all.
    time_limit_s: of the solver at each plan, see `solve` (the paper gives Gurobi 5 minutes). interval_s, threshold_s:
    of introspection; inf for none. restart_s: what a restart takes beyond copies.

    Source: Nagrecha and Kumar, Saturn (VLDB 2024), sections 3 and 4; knagrecha/saturn, solver/milp.py.
    """

    techniques: str = "ddp,fsdp,fsdp-offload,gpipe,spilling"
    device_counts: str = ""
    time_limit_s: float = 10.0
    interval_s: float = 1000.0
    threshold_s: float = 500.0
    restart_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("time_limit_s", "interval_s"):
            if not getattr(self, name) > 0:
                raise SystemRefused(f"{self.name}: {name} is {getattr(self, name)}; it must be above 0.")
        if not self.threshold_s >= 0:
            raise SystemRefused(f"{self.name}: threshold_s is {self.threshold_s}; it must not be negative.")
        if not 0 <= self.restart_s <= MAX_SECONDS:
            raise SystemRefused(f"{self.name}: restart_s is {self.restart_s}; it must be from 0 to {MAX_SECONDS:.0e}.")
        for count in filter(None, self.device_counts.split(",")):
            if not re.fullmatch("[1-9][0-9]{0,5}", count.strip()):
                found = count if len(count) < 20 else f"{count[:20]}..."
                raise SystemRefused(f"{self.name}: device_counts has {found!r}; write numbers from 1 on, as 1,2,4.")
        if self.name in (technique.partition(":")[0] for technique in self.techniques.split(",")):
            raise SystemRefused(f"{self.name} cannot be a technique of its own; write other systems' names.")

    def library(self) -> dict[str, System]:
        """Return the techniques by what they were asked for."""
        return {asked: parse_system(asked) for asked in self.techniques.split(",")}

    def counts(self, num_devices: int) -> list[int]:
        """Return the numbers of devices to try, of so many."""
        stated = [int(count) for count in self.device_counts.split(",") if count]
        return [count for count in stated or range(1, num_devices + 1) if count <= num_devices]

    def training(self, workload: Workload, cluster: Cluster, costs: CostModel, effects: Effects) -> SaturnRun:
        return SaturnRun(workload, cluster, self, costs, effects)

    def memory_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> list[int]:
        return self._frugal(job, cluster, devices).memory_bytes(job, cluster, devices)

    def host_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> int:
        return self._frugal(job, cluster, devices).host_bytes(job, cluster, devices)

    def minibatch(self, build: Build, minibatch: int) -> None:
        self._frugal(build.job, build.cluster, build.devices).minibatch(build, minibatch)

    def _frugal(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> System:
        """Return the technique that needs least of these devices, which is what Saturn is before it has planned."""
        needs: list[tuple[int, System]] = []
        for technique in self.library().values():
            try:
                needs.append((max(technique.memory_bytes(job, cluster, devices)), technique))
            except SystemRefused:
                continue
        if not needs:
            raise SystemRefused(
                f"{self.name}: none of {self.techniques} trains {job.name!r} on {len(devices)} devices."
            )
        return min(needs, key=lambda need: need[0])[1]


@dataclass(frozen=True)
class Estimate:
    """What a trial found: how long a job's first mini-batch takes by a technique on a pool, and each one after it."""

    technique: str
    num_devices: int
    pool: int
    first_s: float
    minibatch_s: float

    def seconds(self, num_minibatches: int) -> float:
        """Return what so many mini-batches take from a start."""
        return self.first_s + (num_minibatches - 1) * self.minibatch_s


class SaturnRun(SystemRun):
    """Saturn's orchestrator: plans, has every job begin when its devices are free, and plans again."""

    def __init__(
        self, workload: Workload, cluster: Cluster, saturn: Saturn, costs: CostModel, effects: Effects
    ) -> None:
        super().__init__(workload, cluster, saturn, costs, effects, [])
        self._saturn, self._library, self._pools = saturn, saturn.library(), pools(cluster)
        self._estimates = self._tried()
        self._now_s, self._look_s = 0.0, saturn.interval_s
        self._num_done = {job.name: 0 for job in workload.jobs}  # mini-batches, in groups that the job has left
        self._planned: dict[str, Placement] = {}  # jobs that have arrived and not ended, by start
        self._running: dict[str, Group] = {}
        self._looks: list[dict[str, Any]] = []  # every time that the solver was asked

    @property
    def header(self) -> dict[str, Any]:
        return super().header | {"solver": self._looks[0], "introspection": self._looks[1:]}

    def handle(self, event: Event) -> list[Command]:
        if not isinstance(event, Failed):
            self._now_s = event.end_s if isinstance(event, Finished) else event.at_s
        return super().handle(event)

    def _is_due(self) -> bool:
        return self._now_s >= self._look_s

    def _tried(self) -> dict[str, list[Estimate]]:
        """Try all jobs; by costs that they state themselves, those that differ in name and arrival alone once."""
        if not isinstance(self._costs, StatedCosts):
            return {job.name: self._trials(job) for job in self.workload.jobs}
        found: dict[TrainingJob, list[Estimate]] = {}
        for job in self.workload.jobs:
            alike = replace(job, name="alike", arrival_s=0.0)
            found[job] = found[alike] = found[alike] if alike in found else self._trials(job)
        return {job.name: found[job] for job in self.workload.jobs}

    def _trials(self, job: TrainingJob) -> list[Estimate]:
        """Try a job by every technique on every number of devices of every pool.

        Raises:
            SystemRefused: nothing has room for it.
        """
        sites = [
            (order, pool[:count]) for order, pool in enumerate(self._pools) for count in self._saturn.counts(len(pool))
        ]
        if not sites:
            raise SystemRefused(
                f"{self._saturn.name}: device_counts is {self._saturn.device_counts}; "
                f"at most {max(map(len, self._pools))} devices are identical."
            )
        found, refused = [], None
        for name in self._library:
            for pool, devices in sites:
                try:
                    first_s = self._trial_s(job, name, devices, 1)
                except SystemRefused as reason:
                    refused = reason
                    continue
                rest_s = self._trial_s(job, name, devices, _TRIAL_MINIBATCHES) - first_s
                found.append(Estimate(name, len(devices), pool, first_s, max(0.0, rest_s / (_TRIAL_MINIBATCHES - 1))))
        if not found:
            _, devices = min(sites, key=lambda site: max(self._saturn.memory_bytes(job, self.cluster, site[1])))
            self._check_fits(job, devices)
            assert refused is not None
            raise refused
        return found

    def _trial_s(self, job: TrainingJob, technique: str, devices: tuple[int, ...], num_minibatches: int) -> float:
        """Return what so many mini-batches of a job take without noise, alone on these devices of the cluster."""
        alone = Workload((replace(job, minibatches=num_minibatches, epochs=1, arrival_s=0.0),))
        system, effects = self._library[technique], DEFAULT_EFFECTS if self.effects == "noise" else self.effects
        self._check_host(system, [job], [devices])
        trial = SystemRun(alone, self.cluster, system, self._costs, effects, [devices])
        backend = sim_backend(alone, self.cluster, self._costs, effects, seconds=trial.seconds)
        return run(trial, backend).makespan_s

    def _go_on(self) -> list[Command]:
        issued: list[Command] = []
        if self._waiting or self._now_s >= self._look_s:
            issued += self._look()
        busy = {device for group in self._groups for device in group.devices}
        leaving = {group.build.job.name for group in self._groups if group.build is not None}
        for name, placement in self._planned.items():
            if name not in self._running:
                if name not in leaving and busy.isdisjoint(placement.devices):
                    issued += self._launch(placement)
                busy.update(placement.devices)  # nobody overtakes
        return issued + [command for group in self._groups for command in self._issue(group)]

    def _look(self) -> list[Command]:
        """Plan what is left, and take that plan if it is better by enough, or has jobs that the present one lacks."""
        if self._now_s >= self._look_s:
            self._look_s = (self._now_s // self._saturn.interval_s + 1) * self._saturn.interval_s
        names = [*self._planned, *(job.name for job in self._waiting)]
        enough_s = math.inf if self._waiting else self._left_s() - self._saturn.threshold_s
        self._waiting.clear()
        choices = {name: self._choices(self.workload.job(name)) for name in names}
        if lower_bound_s(choices, self._pools) >= enough_s:
            return []
        plan = solve(choices, self._pools, self._saturn.time_limit_s, enough_s)
        taken = plan.makespan_s < enough_s
        self._looks.append({"at_s": self._now_s, "taken": taken} | plan.described())
        return self._adopt(plan) if taken else []

    def _left_s(self) -> float:
        """Return how long the present plan goes on from now."""
        free_s: dict[int, float] = {}
        for name, placement in self._planned.items():
            seconds = self._going_on_s(name) if name in self._running else placement.choice.seconds
            start_s = max(free_s.get(device, 0.0) for device in placement.devices)
            free_s.update(dict.fromkeys(placement.devices, start_s + seconds))
        return max(free_s.values(), default=0.0)

    def _choices(self, job: TrainingJob) -> list[Choice]:
        """Return how what is left of a job can be trained; if it runs, either on as now, or from a checkpoint."""
        group, left, delay_s = self._running.get(job.name), job.num_minibatches - self._num_done[job.name], 0.0
        going_on = []
        if group is not None:
            now = self._planned[job.name].choice
            going_on = [replace(now, seconds=self._going_on_s(job.name), devices=group.devices)]
            left, delay_s = job.num_minibatches - group.num_issued, self._minibatch_s(job.name) * len(group.unfinished)
        if left < job.num_minibatches and includes(self.effects, "transfers"):
            nbytes, device = job_state_bytes(job), self._pools[0][0]
            delay_s += self._costs.copy_s(nbytes, device, "d2h") + self._costs.copy_s(nbytes, device, "h2d")
            delay_s += self._saturn.restart_s
        anew = self._estimates[job.name] if left else []
        return going_on + [Choice(e.technique, e.num_devices, e.seconds(left) + delay_s, e.pool) for e in anew]

    def _going_on_s(self, name: str) -> float:
        """Return what is left of a running job as it runs."""
        group, job = self._running[name], self.workload.job(name)
        return self._minibatch_s(name) * (job.num_minibatches - group.num_issued + len(group.unfinished))

    def _minibatch_s(self, name: str) -> float:
        now = self._planned[name].choice
        return next(
            estimate.minibatch_s for estimate in self._estimates[name]
            if (estimate.technique, estimate.num_devices, estimate.pool) == (now.technique, now.num_devices, now.pool)
        )  # fmt: skip

    def _adopt(self, plan: Solution) -> list[Command]:
        """Follow a plan from now on; jobs whose choice it changes make room as soon as they can."""
        stopped = [p.job for p in plan.placements if p.job in self._running and not p.choice.devices]
        issued = [command for name in stopped for command in self._stop(name)]
        self._planned = {placement.job: placement for placement in plan.placements}
        return issued

    def _stop(self, name: str) -> list[Command]:
        """Have a job end with the mini-batches under way, and store its state."""
        group = self._running.pop(name)
        assert group.build is not None
        group.until = self._num_done[name] = group.num_issued
        under_way = [number for numbers in group.unfinished for number in numbers]
        group.build.store(group.devices[0], job_state_bytes(group.build.job), group.num_issued - 1, under_way)
        return self._take(group)

    def _launch(self, placement: Placement) -> list[Command]:
        """Have a job begin, or go on from where it was stopped, on devices that are free."""
        job, num_done = self.workload.job(placement.job), self._num_done[placement.job]
        group = self._running[job.name] = Group(placement.devices, self._library[placement.choice.technique])
        self._groups.append(group)
        needs = group.system.memory_bytes(job, self.cluster, group.devices)
        for device, need in zip(group.devices, needs, strict=True):
            self.peak_bytes[device] = max(self.peak_bytes[device], need)
        build = self._begin(group, job, num_done)
        if num_done:
            loaded = build.load(group.devices[0], job_state_bytes(job), num_done)
            self._commands.seconds[loaded] += self._saturn.restart_s
            build.barrier = frozenset([loaded])
        return self._issue(group)

    def _end(self, group: Group) -> None:
        self._groups.remove(group)
        assert group.build is not None
        if group.num_issued == group.build.job.num_minibatches:
            del self._running[group.build.job.name], self._planned[group.build.job.name]
            super()._end(group)


def pools(cluster: Cluster) -> list[tuple[int, ...]]:
    """Return the groups of devices that are identical, as Saturn's nodes."""
    found: dict[object, list[int]] = {}
    for index, device in enumerate(cluster.devices):
        found.setdefault(device, []).append(index)
    return [tuple(pool) for pool in found.values()]
