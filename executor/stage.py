"""What a run is set up with: host memory, workers, loaders and the updater, for its jobs and for those that are added.

A job is admitted in whatever thread asks for it, and added in the run's own: its state and boundaries get places in
host memory, every worker makes its modules, and a loader is forked. Devices keep their arenas, so that it must do with
the activation peak that was set apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import cloudpickle

from executor.checkpoint import Checkpoint, Checkpoints, path_of
from executor.devices import CudaDevice
from executor.errors import CheckpointError, JobError
from executor.host_store import HostStore
from executor.job import TorchJob
from executor.layout import parameters_of
from executor.messages import Addition, JobSetup, LoaderSetup, Setup, UpdaterSetup
from executor.partition import Partition, partition_arena
from executor.pickling import dump_without_weights
from executor.pilot import JobPilot
from executor.pool import DevicePool
from executor.prepare import Prepared, check_apart, threads_of
from executor.process import Child
from executor.replacement import Replacement
from executor.saving import restore, saving_setup
from executor.step import rates_of
from hydrasim.capacity import check_fits
from hydrasim.dataflow import aligned, state_keys
from hydrasim.errors import ShardTooLarge, told
from hydrasim.orchestrator import Orchestrator
from hydrasim.workload import TrainingJob


@dataclass(frozen=True)
class Admitted:
    """A job that fits beside a run's: as it was cut, as the orchestrator knows it, and as processes get it."""

    part: Partition
    training_job: TrainingJob
    setup: JobSetup
    loader: LoaderSetup


class Stage:
    """The stage of one run. admitted: its jobs, and those that may be added; parts: those that were.

    label: of its timeline. recovers: whether the run goes on without a device. begun: the checkpoints that jobs go on
    from. chaos_seed, checkpoints: see `train`.
    """

    def __init__(
        self,
        prepared: Prepared,
        orchestrator: Orchestrator,
        pool: DevicePool,
        store: HostStore,
        chaos_seed: int | None = None,
        checkpoints: Checkpoints | None = None,
        begun: Mapping[str, Checkpoint] | None = None,
    ) -> None:
        assert orchestrator.residency is not None
        self.label = "measured" if all(isinstance(device, CudaDevice) for device in prepared.devices) else "emulated"
        self.pool, self.store = pool, store
        self.parts = {part.job.name: part for part in prepared.partitions}
        self.admitted = {name: part.job for name, part in self.parts.items()}
        self.begun, self._checkpoints, self._progress = begun or {}, checkpoints, orchestrator.progress
        self._prepared, self._mechanism, self._chaos_seed = prepared, orchestrator.mechanism, chaos_seed
        self._updates_on_host, self.recovers = False, orchestrator.mechanism.recoverable
        self._setups: list[JobSetup] = []
        self._additions: list[Addition] = []
        self._loaders: dict[str, LoaderSetup] = {}
        self._arenas = [arena.capacity for arena in orchestrator.residency.arenas]
        self._peak_bytes, self._left_bytes = aligned(prepared.workload.working_bytes), prepared.reserve_bytes

    def open(self) -> dict[str, Connection]:
        """Set up every worker and loader for the run; return the loaders' connections by job.

        Raises:
            ExecutionError, JobError: one could not be.
        """
        jobs = self._prepared.workload.by_name
        self._setups = [job_setup(part, jobs[name]) for name, part in self.parts.items()]
        self._loaders = {name: self._loader_setup(part, jobs[name]) for name, part in self.parts.items()}
        for name, checkpoint in self.begun.items():
            restore(checkpoint, self._loaders[name], self.regions_of(name), self.store)
        self.pool.open([self._setup(index) for index in range(len(self._arenas))], self.store.fd)
        if any(job.host_updates for job in self._setups):
            self._open_updater()
        return self.pool.open_loaders(list(self._loaders.values()), self.store.fd)

    def replace(self, device: int, told: Callable[[], None]) -> Replacement:
        """Start a worker in the place of one that ended; see `DevicePool.replace`."""
        return self.pool.replace(device, self._setup(device), self.store.fd, told)

    def replace_updater(self, told: Callable[[], None]) -> Replacement:
        """Start another process that updates in host memory; see `DevicePool.replace_updater`."""
        return self.pool.replace_updater(self._updater_setup(), self.store.fd, told)

    def install(self, replacement: Replacement) -> Child:
        """Have a new process get orders; tell it of jobs that were added since it was set up."""
        child, updates = self.pool.install(replacement), replacement.device is None
        setups = [job for job in self._setups if job.host_updates or not updates]
        additions = [addition for addition in self._additions if addition.job.host_updates or not updates]
        num_missed = len(setups) - replacement.num_jobs
        for addition in additions[len(additions) - num_missed :]:
            child.connection.send(addition)
        return child

    def restart(self, job: str) -> Connection:
        """Have a job's state be as before its first step, and its loader begin anew; return the loader's connection."""
        self.store.write_initial(self.parts[job])
        return self.reload(job)

    def regions_of(self, job: str) -> tuple[int, ...]:
        """Return where the state of each of a job's shards lies."""
        return tuple(self.store.location[key] for key in state_keys(self._progress[job].job))

    @property
    def saves(self) -> bool:
        """Whether jobs have checkpoints."""
        return self._checkpoints is not None

    def scales(self, job: str) -> bool:
        """Tell whether a job's losses are scaled."""
        return self.parts[job].job.step_options.scaling is not None

    def whole(self, failed: Container[str]) -> list[Partition]:
        """Return jobs whose state in host memory is of one moment: that of failed ones is their last checkpoint's."""
        parts = [part for name, part in self.parts.items() if name not in failed]
        for name, part in self.parts.items():
            if name in failed and self._progress[name].saved and self._checkpoints is not None:
                with suppress(CheckpointError):
                    found = Checkpoint.open(path_of(self._checkpoints.of(name), self._progress[name].saved))
                    restore(found, self._loaders[name], self.regions_of(name), self.store)
                    parts.append(part)
        return parts

    def is_stopped(self, job: str) -> bool:
        """Tell whether a job was told to end, for good."""
        return self._progress[job].is_stopped

    def reload(self, job: str) -> Connection:
        """Have a job's loader be another; return its connection.

        Raises:
            ExecutionError: it could not be set up.
        """
        self.pool.close_loader(job)
        return self.pool.open_loaders([self._loaders[job]], self.store.fd)[job]

    def admit(self, job: TorchJob) -> Admitted:
        """Cut a job for what the run's devices have for it, and count it as one of the run's from now on.

        Raises:
            JobError, ShardTooLarge, HostMemoryError: it is unsupported, or does not fit.
        """
        if job.name in self.admitted:
            raise JobError(f"two jobs are named {job.name!r}; names must differ.")
        check_apart([*self.admitted.values(), job])
        pilot = JobPilot(job, threads_of(self._prepared.devices))
        peak_bytes = self._peak_bytes + self._left_bytes - pilot.constant_bytes
        try:
            zone = self._prepared.loading_zone_fraction
            [part] = partition_arena([pilot], min(self._arenas), peak_bytes=peak_bytes, loading_zone_fraction=zone)
        except ShardTooLarge:
            raise self._refused(job, pilot.constant_bytes) from None
        peak_bytes = max(aligned(shard.working_bytes) for shard in part.shards)
        need_bytes = max(0, peak_bytes - self._peak_bytes) + part.constant_bytes
        if need_bytes > self._left_bytes:
            raise self._refused(job, part.constant_bytes)
        prepared, made = self._prepared, self._prepared.training_job(part)
        check_fits(prepared.workload, prepared.cluster, self._mechanism, added=made)
        self.store.check_room(made)
        admitted = Admitted(part, made, job_setup(part, made), self._loader_setup(part, made))
        self._peak_bytes, self._left_bytes = max(peak_bytes, self._peak_bytes), self._left_bytes - need_bytes
        self.admitted[job.name] = job
        return admitted

    def add(self, admitted: Admitted) -> Connection:
        """Set up workers, updater and a loader for one more job; return the loader's connection.

        Raises:
            HostMemoryError: the host has too little. ExecutionError: a process could not be set up.
        """
        part = admitted.part
        self.parts[part.job.name] = part
        addition = Addition(admitted.setup, self.store.add(part, admitted.training_job), part.pilot.constant_bytes)
        self._setups.append(admitted.setup)
        self._additions.append(addition)
        self._loaders[part.job.name] = admitted.loader
        self.pool.add(addition)
        if addition.job.host_updates:
            if self._updates_on_host:
                self.pool.add_to_updater(addition)
            else:
                self._open_updater()
        return self.pool.open_loaders([admitted.loader], self.store.fd)[part.job.name]

    def _setup(self, index: int) -> Setup:
        """Return what a device's worker is set up with now."""
        prepared, simulated = self._prepared, self._prepared.cluster.devices[index]
        beside_bytes = sum(part.retained_bytes for part in prepared.partitions) + prepared.reserve_bytes
        beside_bytes -= sum(addition.constant_bytes for addition in self._additions)
        return Setup(
            prepared.devices[index],
            self._arenas[index],
            simulated.memory_bytes - self._arenas[index] + beside_bytes,
            self.store.nbytes,
            self.store.places,
            tuple(self._setups),
            None if self._chaos_seed is None else self._chaos_seed * len(prepared.devices) + index,
            self.pool.has_link(index),
        )

    def _open_updater(self) -> None:
        self._updates_on_host = True
        self.pool.open_updater(self._updater_setup(), self.store.fd)

    def _updater_setup(self) -> UpdaterSetup:
        jobs = tuple(job for job in self._setups if job.host_updates)
        return UpdaterSetup(jobs, self.store.nbytes, self.store.places)

    def _loader_setup(self, part: Partition, job: TrainingJob) -> LoaderSetup:
        return LoaderSetup(
            part.job.name,
            cloudpickle.dumps((part.job.dataloader, part.job.evaluate_on)),
            part.job.seed,
            job.schedule,
            len(part.shards) + 1,
            len(part.shards) - 1,
            part.pilot.input_bytes,
            part.pilot.target_bytes,
            self.store.nbytes,
            self.store.places,
            None if self._checkpoints is None else saving_setup(part, job, self._checkpoints),
        )

    def _refused(self, job: TorchJob, constant_bytes: int) -> ShardTooLarge:
        return ShardTooLarge(
            f"job {job.name!r} cannot be added: no cuts of it do with {min(self._arenas):,} bytes for state, inputs "
            f"and outputs, an activation peak of {self._peak_bytes:,} and {self._left_bytes:,} in reserve, from which "
            f"{constant_bytes:,} of constant tensors would go.\n"
            "  Prepare the run with more reserve_bytes, or have the job use a smaller batch."
        )


def job_setup(part: Partition, job: TrainingJob) -> JobSetup:
    """Return a job as workers get it.

    Raises:
        JobError: it cannot be sent to another process.
    """
    shards = [list(layers) for layers in part.job.shards(part.cuts)]
    parameters = [parameters_of(layers) for layers in shards]
    recipes = [part.job.recipe(mine) for mine in parameters]
    order = {id(parameter): index for index, parameter in enumerate(part.job.module.parameters())}
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
        job.fused,
        tuple(pilot.layout for pilot in part.shards),
        tuple(pilot.has_gradient for pilot in part.shards),
        tuple(pilot.output_bytes for pilot in part.shards),
        tuple(aligned(shard.activation_bytes) for shard in job.shards),
        tuple(pilot.gradients for pilot in part.shards),
        tuple(tuple(order[id(parameter)] for parameter in mine) for mine in parameters),
        part.job.step_options,
        job.separate_updates,
        job.host_updates != "no",
        rates_of(part.job, job.schedule.num_steps),
        job.schedule,
        part.ties,
    )
