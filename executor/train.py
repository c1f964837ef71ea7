"""`train`: run jobs on devices under a policy or a plan, and give the trained weights back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from statistics import fmean
from typing import get_args

import cloudpickle
import torch

from executor.backend import TorchBackend
from executor.callbacks import Callback, Judged
from executor.control import Control
from executor.devices import CudaDevice, Device
from executor.errors import ExecutionError, JobError
from executor.host_store import HostStore
from executor.job import TorchJob
from executor.layout import buffers_of, parameters_of
from executor.messages import JobSetup, LoaderSetup, Setup, UpdaterSetup
from executor.partition import Partition
from executor.pickling import dump_without_weights
from executor.pool import DevicePool
from executor.prepare import Prepared, prepare
from executor.step import rates_of
from executor.weights import Saved
from hydrasim.command import Command, Event
from hydrasim.dataflow import BlockKey, aligned
from hydrasim.errors import PlanError, told
from hydrasim.loop import run
from hydrasim.mechanism import OURS, Mechanism
from hydrasim.orchestrator import Orchestrator
from hydrasim.plan import Plan
from hydrasim.policies import Policy, make_policy
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import Profile, StatedCosts
from hydrasim.timeline import Timeline


@dataclass(frozen=True)
class JobResult:
    """What became of a job. losses: one a mini-batch. metrics: of its evaluations, one an epoch.

    optimizer_state: tensors by parameter name; none of a job whose weights came from disk, as they may not fit.
    """

    name: str
    status: str  # "finished", or "stopped" by a callback
    losses: tuple[float, ...]
    error: str = ""
    optimizer_state: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict, repr=False)
    metrics: tuple[float, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """What a run did. The timeline's header has `peak_bytes` as a simulated one's does, and `orchestrator_cpu_s`."""

    jobs: dict[str, JobResult]
    timeline: Timeline
    host_bytes: int

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
) -> RunResult:
    """Train the jobs and put the trained weights into their models.

    jobs: user jobs, or what `prepare` made of them (then devices are known). policy: decides live,
    with the profile's times as beliefs, or the pilot's rough ones. plan: followed instead of a policy.
    pool: worker processes to use and keep. chaos_seed: delay and poison at random (for tests).
    commands, on_event: see `hydrasim.loop.run`. callbacks: called in turn after each mini-batch; one that
    returns True stops the job; see `executor.callbacks`. control: pauses, resumes and stops jobs, under a policy.

    Raises:
        ExecutionError: a layer, loader or worker failed; it names job, unit and cause.
        ShardTooLarge, JobError, PlanError, PolicyError: before anything runs.
    """
    zone = mechanism.loading_zone_fraction
    prepared = jobs if isinstance(jobs, Prepared) else prepare(jobs, devices, loading_zone_fraction=zone)
    if plan and control:
        raise PlanError("a plan says what every unit does, so there is nothing to control; run a policy.")
    workload, cluster = prepared.workload, prepared.cluster
    beliefs = StatedCosts(workload, cluster) if profile is None else profile.costs(cluster)
    chosen = make_policy(policy) if plan is None else FollowPlan(plan)
    orchestrator = Orchestrator(workload, cluster, chosen, beliefs, mechanism=mechanism, seed=seed)
    if pool is not None and pool.devices != prepared.devices:
        raise ExecutionError("the pool was made for other devices than these jobs were prepared for.")
    own_pool, store = DevicePool(prepared.devices) if pool is None else pool, HostStore(prepared)
    try:
        planned = {} if plan is None else {"planned_by": plan.policy}
        header = planned | {"devices": [device.kind for device in cluster.devices], "seed": seed}
        with nullcontext([]) if control is None else control.listening(workload.by_name) as asked:
            for what, job in asked:
                orchestrator.heed(what(job, 0.0))
            with closing(_open(prepared, orchestrator, own_pool, store, chaos_seed, callbacks, control)) as backend:
                timeline = run(orchestrator, backend, commands=commands, on_event=on_event, **header)
        peaks = own_pool.end_run()
        for part in prepared.partitions if update_models else ():
            _write_back(part, store)
        timeline.header.update(peak_bytes=_peak_bytes(orchestrator, peaks), orchestrator_cpu_s=backend.cpu_s)
        return RunResult(_results(prepared, backend, store), timeline, store.reserved_bytes)
    except BaseException:
        own_pool.close()  # workers may be in the middle of anything
        raise
    finally:
        store.close()
        if pool is None:
            own_pool.close()


def _peak_bytes(orchestrator: Orchestrator, peaks: Sequence[int]) -> list[int]:
    """Return the most that lay in each arena, by its commands, plus what units had alive, measured."""
    assert orchestrator.residency is not None
    return [arena.peak_bytes + peak for arena, peak in zip(orchestrator.residency.arenas, peaks, strict=True)]


def _open(
    prepared: Prepared,
    orchestrator: Orchestrator,
    pool: DevicePool,
    store: HostStore,
    chaos_seed: int | None,
    callbacks: Sequence[Callback],
    control: Control | None,
) -> TorchBackend:
    """Set up every worker and loader for the run."""
    assert orchestrator.residency is not None
    jobs = tuple(_job_setup(part, prepared) for part in prepared.partitions)
    retained_bytes = sum(part.retained_bytes for part in prepared.partitions)
    setups = []
    for index, (device, simulated) in enumerate(zip(prepared.devices, prepared.cluster.devices, strict=True)):
        arena_bytes = orchestrator.residency.arenas[index].capacity
        setups.append(
            Setup(
                device, arena_bytes, simulated.memory_bytes - arena_bytes + retained_bytes, store.nbytes,
                store.places, jobs,
                None if chaos_seed is None else chaos_seed * len(prepared.devices) + index, pool.has_link(index),
            )
        )  # fmt: skip
    pool.open(setups, store.fd)
    on_host = tuple(job for job in jobs if job.host_updates)
    if on_host:
        pool.open_updater(UpdaterSetup(on_host, store.nbytes, store.places), store.fd)
    loaders = pool.open_loaders([_loader_setup(part, prepared, store) for part in prepared.partitions], store.fd)
    label = "measured" if all(isinstance(device, CudaDevice) for device in prepared.devices) else "emulated"
    return TorchBackend(prepared.workload, pool, loaders, store, label, callbacks, control)


def _job_setup(part: Partition, prepared: Prepared) -> JobSetup:
    shards = [list(layers) for layers in part.job.shards(part.cuts)]
    parameters = [parameters_of(layers) for layers in shards]
    recipes = [part.job.recipe(mine) for mine in parameters]
    order = {id(parameter): index for index, parameter in enumerate(part.job.module.parameters())}
    simulated = prepared.workload.job(part.job.name)
    try:
        parts = (shards, part.job.loss_fn, part.job.metric_fn, recipes)
        payload = dump_without_weights(parts, list(itertools.chain(*parameters)))
    except Exception as reason:
        raise JobError(
            f"job {part.job.name!r}: the optimizer cannot be sent to a worker process: {told(reason)}"
        ) from reason
    return JobSetup(
        part.job.name,
        payload,
        part.job.seed,
        prepared.fused,
        tuple(pilot.layout for pilot in part.shards),
        tuple(pilot.has_gradient for pilot in part.shards),
        tuple(pilot.output_bytes for pilot in part.shards),
        tuple(aligned(shard.activation_bytes) for shard in simulated.shards),
        tuple(pilot.gradients for pilot in part.shards),
        tuple(tuple(order[id(parameter)] for parameter in mine) for mine in parameters),
        part.job.step_options,
        simulated.separate_updates,
        simulated.host_updates != "no",
        rates_of(part.job, simulated.schedule.num_steps),
        simulated.schedule,
        part.ties,
    )


def _loader_setup(part: Partition, prepared: Prepared, store: HostStore) -> LoaderSetup:
    return LoaderSetup(
        part.job.name,
        cloudpickle.dumps((part.job.dataloader, part.job.evaluate_on)),
        part.job.seed,
        prepared.workload.job(part.job.name).schedule,
        len(part.shards) + 1,
        len(part.shards) - 1,
        part.pilot.input_bytes,
        part.pilot.target_bytes,
        store.nbytes,
        store.places,
    )


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


def _results(prepared: Prepared, backend: TorchBackend, store: HostStore) -> dict[str, JobResult]:
    return {
        part.job.name: JobResult(
            job.name,
            "finished" if backend.has_finished(job) else "stopped",
            tuple(backend.losses[job.name]),
            "",
            _optimizer_state(part, store) if part.job.weights is None else {},
            tuple(backend.metrics[job.name]),
        )
        for part, job in zip(prepared.partitions, prepared.workload.jobs, strict=True)
    }


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
