"""Runs of the paper's worlds: as many mini-batches as a steady state needs, extended to the full length."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from experiments.paper.worlds import World
from hydrasim.cluster import Cluster
from hydrasim.command import Event, Finished, Kind
from hydrasim.errors import HydraError
from hydrasim.mechanism import DEFAULT_EFFECTS, Effects
from hydrasim.policies import Policy
from hydrasim.profile import StatedCosts
from hydrasim.simulator import simulate
from hydrasim.systems import System, make_system, simulate_system
from hydrasim.utilization import Interval, busy_intervals, total_s
from hydrasim.workload import TrainingJob, Workload

Found = TypeVar("Found")

STEADY_MINIBATCHES = 200  # of the shortest job; the others keep their proportion to it
ALIKE_MINIBATCHES = 4  # of a job that a rival trains alone, in an order that never changes: all are alike
SMOKE_MINIBATCHES = 8


@dataclass(frozen=True)
class Run:
    """A world, and who trains it: a policy under the world's mechanism, or a rival system; by object or name."""

    world: World
    policy: Policy | str = "sharded-lrtf"
    system: System | str | None = None
    effects: Effects = DEFAULT_EFFECTS


@dataclass(frozen=True)
class Outcome:
    """What a run came to, at full length; simulated_minibatches: of what, of all jobs that were not taken as alike.

    makespan_s is NaN, and error says why, when the world cannot be trained so.
    """

    makespan_s: float
    utilization: float = float("nan")
    simulated_minibatches: int = 0
    error: str = ""


_done: dict[tuple[Run, int], Outcome] = {}


def run_all(runs: Sequence[Run], num_minibatches: int | Sequence[int] = STEADY_MINIBATCHES) -> list[Outcome]:
    """Simulate runs beside each other, on all cores; the outcomes are those of one after another.

    What figures have in common is simulated once a process. num_minibatches: of each world's shortest job, for all runs
    or by run; 0 for the full length.
    """
    lengths = [num_minibatches] * len(runs) if isinstance(num_minibatches, int) else num_minibatches
    asked = list(zip(runs, lengths, strict=True))
    new = [pair for pair in dict.fromkeys(asked) if pair not in _done]
    _done.update(zip(new, beside(run_one, new, _num_units), strict=True))
    return [_done[pair] for pair in asked]


def beside(
    function: Callable[..., Found], arguments: Sequence[Any], weight: Callable[..., float] = lambda *_: 0.0
) -> list[Found]:
    """Call a function with each of the arguments, in processes on all cores, the heaviest first; return its results."""
    workers = min(len(arguments), os.cpu_count() or 1)
    if workers < 2:
        return [function(*each) for each in arguments]
    order = sorted(range(len(arguments)), key=lambda index: -weight(*arguments[index]))
    with ProcessPoolExecutor(workers, get_context("forkserver"), initializer=_begin_worker) as pool:
        pending = {index: pool.submit(function, *arguments[index]) for index in order}
        return [pending[index].result() for index in range(len(arguments))]


def run_by_difference(runs: Sequence[Run], num_minibatches: int) -> list[Outcome]:
    """Simulate two lengths of each run, one half of the other, and extend the longer one by what that adds to it.

    Few mini-batches are enough then: what happens once, as moving state in and out, is in neither's difference.
    num_minibatches: of each world's shortest job in the longer one; 0 for the full length.
    """
    if not num_minibatches:
        return run_all(runs, 0)
    half = max(1, num_minibatches // 2)
    lengths = (half, 2 * half)
    parts = [shortened(run.world.workload, length) for run in runs for length in lengths]
    cut = [
        replace(run, world=replace(run.world, workload=workload))
        for run, (workload, _) in zip([run for run in runs for _ in lengths], parts, strict=True)
    ]
    outcomes = run_all(cut, 0)
    return [
        replace(long, makespan_s=long.makespan_s + (long.makespan_s - short.makespan_s) * 2 * (factor - 1))
        for short, long, (_, factor) in zip(outcomes[::2], outcomes[1::2], parts[1::2], strict=True)
    ]


def run_one(run: Run, num_minibatches: int = STEADY_MINIBATCHES) -> Outcome:
    """Simulate a run with a part of its mini-batches, and extend what it came to.

    A system that trains job after job on all devices is simulated job by job, equal jobs once; as mini-batches of a job
    are alike then, the difference of a few extends to all, exactly. All else is simulated with all jobs together,
    shortened by one factor, and the rest takes what these take in the mean: `--doubling` shows how good that is.
    """
    system = make_system(run.system) if isinstance(run.system, str) else run.system
    workload, cluster = run.world.workload, run.world.cluster
    try:
        if system is not None and _trains_job_by_job(system, workload, cluster):
            system.training(workload, cluster, StatedCosts(workload, cluster), run.effects)  # refuses what does not fit
            return _job_by_job(run, system, num_minibatches)
        short, factor = shortened(workload, num_minibatches)
        makespan_s, utilization = _simulated(run, system, short)
    except HydraError as reason:
        return Outcome(float("nan"), error=str(reason).splitlines()[0])
    done = sum(job.num_minibatches for job in short.jobs)
    return Outcome(makespan_s * factor, utilization, done)


def rank(outcome: Outcome) -> tuple[bool, float]:
    """Return what is least for the best outcome: those of least makespan, and then what is refused."""
    return bool(outcome.error), 0.0 if outcome.error else outcome.makespan_s


def scaled(length: int, num_minibatches: int) -> int:
    """Return a length of a figure's own when that of all, STEADY_MINIBATCHES, is asked to be another; 0 stays 0."""
    return length * num_minibatches // STEADY_MINIBATCHES


def shortened(workload: Workload, num_minibatches: int) -> tuple[Workload, float]:
    """Return the workload with its shortest job cut to so many mini-batches, the others in proportion; and by how much.

    0 leaves all at full length.
    """
    shortest = min(job.num_minibatches for job in workload.jobs)
    if not 0 < num_minibatches < shortest:
        return workload, 1.0
    jobs = tuple(_of_length(job, round(job.num_minibatches * num_minibatches / shortest)) for job in workload.jobs)
    return Workload(jobs), shortest / num_minibatches


def _num_units(run: Run, num_minibatches: int) -> int:
    """Return how many units are simulated, roughly, counting one that a rival works off on all devices for each."""
    workload, num_devices = run.world.workload, len(run.world.cluster.devices)
    if run.system is not None and len(workload.jobs) == 1:
        num_minibatches = ALIKE_MINIBATCHES
    jobs = shortened(workload, num_minibatches)[0].jobs
    return sum(job.num_units for job in jobs) * (num_devices if run.system is not None else 1)


def _begin_worker() -> None:
    """Have this worker end when whoever asked for it does, in whatever way; by itself it would wait for ever.

    And have its garbage looked for rarely: simulations leave hardly any that is not freed by itself.
    """
    gc.freeze()
    gc.set_threshold(100_000)

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def _trains_job_by_job(system: System, workload: Workload, cluster: Cluster) -> bool:
    return type(system).training is System.training and len(system.groups(workload, cluster)) == 1


def _job_by_job(run: Run, system: System, num_minibatches: int) -> Outcome:
    """Add up what jobs take alone."""
    alone: dict[TrainingJob, Outcome] = {}
    jobs = [replace(job, name="alike") for job in run.world.workload.jobs]
    for job in jobs:
        if job not in alone:
            alone[job] = _alone(run, system, job, num_minibatches)
    makespan_s = sum(alone[job].makespan_s for job in jobs)
    busy_s = sum(alone[job].makespan_s * alone[job].utilization for job in jobs)
    return Outcome(makespan_s, busy_s / makespan_s, sum(outcome.simulated_minibatches for outcome in alone.values()))


def _alone(run: Run, system: System, job: TrainingJob, num_minibatches: int) -> Outcome:
    """Simulate two lengths of a job that is trained alone, and extend the longer one by what that adds."""

    def taken_s(length: int) -> tuple[float, float]:
        makespan_s, utilization = _simulated(run, system, Workload((_of_length(job, length),)))
        return makespan_s, makespan_s * utilization

    whole = job.num_minibatches
    half = max(1, scaled(ALIKE_MINIBATCHES, num_minibatches) // 2)
    if not num_minibatches or whole <= 2 * half:
        makespan_s, busy_s = taken_s(whole)
        return Outcome(makespan_s, busy_s / makespan_s, whole)
    more = (whole - 2 * half) / half
    makespan_s, busy_s = (
        long + (long - short) * more for short, long in zip(taken_s(half), taken_s(2 * half), strict=True)
    )
    return Outcome(makespan_s, busy_s / makespan_s, 2 * half)


class _Tally:
    """What a run comes to, from its events; its spans would fill the memory."""

    def __init__(self, num_devices: int) -> None:
        self._computed: list[list[Interval]] = [[] for _ in range(num_devices)]
        self.makespan_s = 0.0

    def note(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.makespan_s = max(self.makespan_s, event.end_s)
            if event.command.kind is Kind.COMPUTE:
                self._computed[event.command.device].append(Interval.of(event))

    def utilization(self) -> float:
        """Return what `Timeline.utilization` does."""
        busy_s = sum(total_s(busy_intervals(mine)) for mine in self._computed)
        return busy_s / (len(self._computed) * self.makespan_s)


def _simulated(run: Run, system: System | None, workload: Workload) -> tuple[float, float]:
    """Return the makespan in seconds, and the utilization."""
    world, tally = run.world, _Tally(len(run.world.cluster.devices))
    cluster, effects, counted = world.cluster, run.effects, {"on_event": tally.note, "keep_spans": False}
    if system is None:
        simulate(workload, cluster, run.policy, mechanism=world.mechanism, effects=effects, **counted)
    else:
        simulate_system(workload, cluster, system, effects=effects, **counted)
    return tally.makespan_s, tally.utilization()


def _of_length(job: TrainingJob, num_minibatches: int) -> TrainingJob:
    return replace(job, minibatches=max(1, num_minibatches), epochs=1)
