"""`train`: run jobs on devices under a policy or a plan, and give the trained weights back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, get_args

import torch

from executor.backend import TorchBackend
from executor.callbacks import Callback, Judged
from executor.checkpoint import Checkpoint, Checkpoints
from executor.control import Control
from executor.devices import Device
from executor.errors import ExecutionError
from executor.host_store import HostStore
from executor.interrupt import Interrupt, Suspended
from executor.job import TorchJob
from executor.layout import buffers_of, parameters_of
from executor.messages import Used
from executor.partition import Partition
from executor.pool import DevicePool
from executor.prepare import Prepared, prepare
from executor.saving import checkpoints_of
from executor.stage import Stage
from executor.weights import Saved
from hydrasim.command import Command, Event, JobStopped
from hydrasim.dataflow import BlockKey
from hydrasim.errors import PlanError
from hydrasim.loop import run
from hydrasim.mechanism import OURS, Mechanism
from hydrasim.orchestrator import Orchestrator
from hydrasim.plan import Plan
from hydrasim.policies import Policy, make_policy
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import Profile, StatedCosts
from hydrasim.timeline import Timeline
from hydrasim.workload import TrainingJob


@dataclass(frozen=True)
class JobResult:
    """What became of a job. losses: one a mini-batch. metrics: of its evaluations, one an epoch. error: why it failed.

    The model of a failed job is as its last checkpoint has it, or as it was before the run.

    optimizer_state: tensors by parameter name; none of a job whose weights came from disk, as they may not fit.
    """

    name: str
    status: str  # "finished", "failed", "stopped" by a callback or a Control, or "suspended" by Ctrl-C
    losses: tuple[float, ...]
    error: str = ""
    optimizer_state: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict, repr=False)
    metrics: tuple[float, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """What a run did. The timeline's header has `peak_bytes` as a simulated one's does, and `core_s`.

    That is CPU seconds by what took them: "orchestrator", and over all devices "units", "copies" and the "rest".
    faults: sentences on processes that ended, of which the run recovered.
    """

    jobs: dict[str, JobResult]
    timeline: Timeline
    host_bytes: int
    faults: tuple[str, ...] = ()

    @property
    def peak_bytes(self) -> tuple[int, ...]:
        """Per device, the most that lay in its arena, by its commands, plus the most that units had alive, measured."""
        return tuple(self.timeline.header["peak_bytes"])

    @property
    def makespan_s(self) -> float:
        return self.timeline.makespan_s

    def best(self, num_losses: int = 1, *, by: Judged = "loss", greatest: bool = False) -> JobResult:
        """Return the job with the least mean of its last so many losses; jobs that end in NaN are left out.

        by: "metric" for so many of its last evaluations instead. greatest: the most is best, as of an accuracy.

        Raises:
            ExecutionError: no job ends in numbers.
        """
        ends = {name: (job.losses if by == "loss" else job.metrics)[-num_losses:] for name, job in self.jobs.items()}
        means = {name: fmean(end) for name, end in ends.items() if end}
        numbers = {name: mean for name, mean in means.items() if not math.isnan(mean)}
        if num_losses < 1 or by not in get_args(Judged) or not numbers:
            raise ExecutionError(f"no job has a number as the mean of its last {num_losses} values by {by!r}.")
        return self.jobs[(max if greatest else min)(numbers, key=numbers.__getitem__)]


def train(
    jobs: Sequence[TorchJob] | Prepared,
    devices: Sequence[Device] = (),
    *,
    policy: Policy | str = "resident-lrtf",
    plan: Plan | None = None,
    profile: Profile | None = None,
    mechanism: Mechanism = OURS,
    seed: int = 0,
    pool: DevicePool | None = None,
    update_models: bool = True,
    chaos_seed: int | None = None,
    commands: list[Command] | None = None,
    on_event: Callable[[Event], None] | None = None,
    callbacks: Sequence[Callback] = (),
    control: Control | None = None,
    recover: bool = True,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    strict: bool = False,
) -> RunResult:
    """Train the jobs and put the trained weights into their models.

    jobs: user jobs, or what `prepare` made of them (then devices are known). policy: decides live, with the profile's
    times as beliefs, or the pilot's rough ones. plan: followed instead of a policy. pool: worker processes to use and
    keep. chaos_seed: delay and poison at random (for tests). commands, on_event: see `hydrasim.loop.run`. callbacks:
    called in turn after each mini-batch; one that returns True stops the job; see `executor.callbacks`. control: adds,
    pauses, resumes and stops jobs, under a policy. recover: under a policy, go on when a worker is killed: what it had
    not finished is redone. checkpoints: where and how often jobs' state is saved; resume: go on from what is there.
    strict: a job that fails ends the run; else it is set aside, and the others go on.

    Raises:
        ExecutionError: a process failed for good, or, if strict, a layer, loader or callback; it names job and cause.
        ShardTooLarge, JobError, PlanError, PolicyError: before anything runs. CheckpointError: one is there that is not
        to be resumed, or cannot be. Suspended: Ctrl-C, where there are checkpoints; it has the result.
    """
    prepared = _prepared(jobs, devices, mechanism)
    _check(prepared, plan, pool, control)
    begun = {} if checkpoints is None else checkpoints_of(prepared, checkpoints, resume=resume)
    every = checkpoints and checkpoints.interval
    mechanism = replace(mechanism, recoverable=recover and plan is None, checkpoint_every=every)
    orchestrator = _orchestrator(prepared, plan or policy, profile, mechanism, seed, begun)
    own_pool = DevicePool(prepared.devices) if pool is None else pool
    store = HostStore(prepared, grows=control is not None)
    try:
        options = {"commands": commands, "on_event": on_event, **_header(prepared, plan, seed)}
        stage = Stage(prepared, orchestrator, own_pool, store, chaos_seed, checkpoints, begun)
        timeline, backend = _carried_out(orchestrator, stage, callbacks, control, options, strict=strict)
        whole = stage.whole(backend.failures)
        for part in whole if update_models else ():
            _write_back(part, store)
        results = _results(orchestrator, stage, backend, whole)
    except BaseException:
        own_pool.close()  # workers may be in the middle of anything
        raise
    finally:
        store.close()
        if pool is None:
            own_pool.close()
    return _checked(RunResult(results, timeline, store.reserved_bytes, backend.faults), backend)


def _prepared(jobs: Sequence[TorchJob] | Prepared, devices: Sequence[Device], mechanism: Mechanism) -> Prepared:
    zone = mechanism.loading_zone_fraction
    return jobs if isinstance(jobs, Prepared) else prepare(jobs, devices, loading_zone_fraction=zone)


def _checked(result: RunResult, backend: TorchBackend) -> RunResult:
    if backend.interrupt is not None and backend.interrupt.happened:
        raise Suspended(result)
    return result


def _header(prepared: Prepared, plan: Plan | None, seed: int) -> dict[str, Any]:
    header: dict[str, Any] = {"devices": [device.kind for device in prepared.cluster.devices], "seed": seed}
    return header if plan is None else header | {"planned_by": plan.policy}


def _carried_out(
    orchestrator: Orchestrator,
    stage: Stage,
    callbacks: Sequence[Callback],
    control: Control | None,
    options: dict[str, Any],
    *,
    strict: bool,
) -> tuple[Timeline, TorchBackend]:
    """Run to the end; return the timeline, and the backend, which knows what training came to."""
    interrupt = Interrupt() if stage.saves and orchestrator.following is None else None
    with (
        nullcontext([]) if control is None else control.listening(stage) as asked,
        nullcontext() if interrupt is None else interrupt.awaited(),
    ):
        for what, job in asked:
            orchestrator.heed(what(job, 0.0))
        workload = orchestrator.workload
        made = TorchBackend(workload, stage, stage.open(), callbacks, control, interrupt, strict=strict)
        with closing(made) as backend:
            timeline = run(orchestrator, backend, **options)
    used = stage.pool.end_run()
    timeline.header.update(peak_bytes=_peak_bytes(orchestrator, used), core_s=_core_s(backend, used))
    return timeline, backend


def _check(prepared: Prepared, plan: Plan | None, pool: DevicePool | None, control: Control | None) -> None:
    if plan and control:
        raise PlanError("a plan says what every unit does, so there is nothing to control; run a policy.")
    if pool is not None and pool.devices != prepared.devices:
        raise ExecutionError("the pool was made for other devices than these jobs were prepared for.")


def _orchestrator(
    prepared: Prepared,
    decider: Policy | Plan | str,
    profile: Profile | None,
    mechanism: Mechanism,
    seed: int,
    checkpoints: Mapping[str, Checkpoint],
) -> Orchestrator:
    workload, cluster = prepared.workload, prepared.cluster
    beliefs = StatedCosts(workload, cluster) if profile is None else profile.costs(cluster)
    begun = {name: checkpoint.facts.minibatch for name, checkpoint in checkpoints.items()}
    policy = FollowPlan(decider) if isinstance(decider, Plan) else make_policy(decider)
    made = Orchestrator(workload, cluster, policy, beliefs, mechanism=mechanism, seed=seed, begun=begun)
    for name, checkpoint in checkpoints.items():
        if checkpoint.facts.status == "stopped":
            made.heed(JobStopped(name, 0.0))
    return made


def _peak_bytes(orchestrator: Orchestrator, used: Sequence[Used]) -> list[int]:
    """Return the most that lay in each arena, by its commands, plus what units had alive, measured."""
    assert orchestrator.residency is not None
    return [arena.peak_bytes + use.peak_bytes for arena, use in zip(orchestrator.residency.arenas, used, strict=True)]


def _core_s(backend: TorchBackend, used: Sequence[Used]) -> dict[str, float]:
    of_devices = {what: sum(use.core_s.get(what, 0.0) for use in used) for what in ("units", "copies", "rest")}
    return {"orchestrator": backend.core_s, **of_devices}


def _write_back(part: Partition, store: HostStore) -> None:
    """Copy trained weights, and statistics, into the user's model, and into a checkpoint if its job says so."""
    saved = None if part.job.save_to is None else Saved(part.job.save_to, len(part.shards))
    for index, layers in enumerate(part.job.shards(part.cuts)):
        block, layout = store.block(BlockKey("w", part.job.name, index, -1)), part.shards[index].layout
        pairs = [
            *zip(parameters_of(layers), layout.parameters, strict=True),
            *zip(buffers_of(layers), layout.buffers, strict=False),
        ]
        trained = {id(own): slot.view(block) for own, slot in pairs}
        with torch.no_grad():
            for own, _ in pairs:
                if not own.is_meta:
                    own.copy_(trained[id(own)])
        if saved is not None:
            found = part.job.named_state(layers)
            saved.add({name: trained.get(id(tensor), tensor.detach()) for name, tensor in found.items()})
    if saved is not None:
        saved.close()


def _results(
    orchestrator: Orchestrator, stage: Stage, backend: TorchBackend, whole: Sequence[Partition]
) -> dict[str, JobResult]:
    came_too_late = {name: JobResult(name, "stopped", ()) for name in stage.admitted}
    states = {part.job.name: _optimizer_state(part, stage.store) for part in whole if not part.job.weights}
    return came_too_late | {
        job.name: JobResult(
            job.name,
            _status(job, backend, orchestrator.progress[job.name].is_stopped),
            tuple(backend.accounts.losses[job.name]),
            str(backend.failures.get(job.name, "")),
            states.get(job.name, {}),
            tuple(backend.accounts.metrics[job.name]),
        )
        for job in orchestrator.workload.jobs
    }


def _status(job: TrainingJob, backend: TorchBackend, is_stopped: bool) -> str:
    if job.name in backend.failures:
        return "failed"
    if backend.accounts.has_finished(job):
        return "finished"
    return "stopped" if is_stopped else "suspended"


def _optimizer_state(part: Partition, store: HostStore) -> dict[str, dict[str, torch.Tensor]]:
    names = {id(parameter): name for name, parameter in part.job.module.named_parameters()}
    states: dict[str, dict[str, torch.Tensor]] = {}
    for index, layers in enumerate(part.job.shards(part.cuts)):
        layout = part.shards[index].layout
        block = store.block(BlockKey("w", part.job.name, index, -1))
        mine = [names[id(parameter)] for parameter in parameters_of(layers)]
        for entry in layout.state:
            if not layout.flags(block)[entry.parameter]:
                continue  # of steps that were all left out
            states.setdefault(mine[entry.parameter], {})[entry.key] = entry.slot.view(block).clone()
    return states
