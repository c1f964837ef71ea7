"""A job's state between host memory and its checkpoints: what its loader process saves, and how a run goes on from it.

The loader saves, since it comes after the fetches that it has made, and knows its place in the data.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from executor import randomness
from executor.checkpoint import Checkpoint, Checkpoints, Facts, checkpoints_in, restate, writing
from executor.errors import CheckpointError, JobError
from executor.layout import ShardLayout, StateSlot, buffers_of, parameters_of
from executor.scaling import Scale
from hydrasim.errors import told

if TYPE_CHECKING:
    from executor.host_store import StoreView
    from executor.messages import LoaderSetup, Save
    from executor.partition import Partition
    from executor.prepare import Prepared
    from hydrasim.schedule import Schedule
    from hydrasim.workload import TrainingJob

_LOADERS = {False: "training", True: "evaluation"}


@dataclass(frozen=True)
class SavedShard:
    """A shard's tensors by their names in the user's model, and where they lie in its block."""

    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    layout: ShardLayout

    def weights(self, block: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the parameters, and the buffers that training changes."""
        slots = (*self.layout.parameters, *self.layout.buffers)
        names = (*self.parameters, *self.buffers)[: len(slots)]
        return {name: slot.view(block) for name, slot in zip(names, slots, strict=True)}

    def state(self, block: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the optimizer's state, as far as it has any yet."""
        made = self.layout.flags(block).tolist() if self.layout.state else ()
        return {name: entry.slot.view(block) for name, entry in self.named_state.items() if made[entry.parameter]}

    @property
    def named_state(self) -> dict[str, StateSlot]:
        """Where the optimizer's state lies, by name."""
        return {f"{self.parameters[entry.parameter]}.{entry.key}": entry for entry in self.layout.state}


@dataclass(frozen=True)
class SavingSetup:
    """What the process that saves a job knows of it. facts: of its checkpoints, but for their mini-batch."""

    folder: Path
    keep: int
    shards: tuple[SavedShard, ...]
    facts: Facts
    is_scaled: bool


def saving_setup(part: Partition, job: TrainingJob, checkpoints: Checkpoints) -> SavingSetup:
    """Return what saves a job."""
    return SavingSetup(
        checkpoints.of(job.name).absolute(),
        checkpoints.keep,
        _shards(part),
        _facts(part, job.schedule),
        part.job.step_options.scaling is not None,
    )


def checkpoints_of(prepared: Prepared, checkpoints: Checkpoints, *, resume: bool) -> dict[str, Checkpoint]:
    """Return what jobs go on from, by job; without resume nothing, and then there must be nothing.

    Raises:
        CheckpointError: there is something all the same, or it is damaged, or of another job.
    """
    begun: dict[str, Checkpoint] = {}
    for part in prepared.partitions:
        name, folder = part.job.name, checkpoints.of(part.job.name)
        if not resume and checkpoints_in(folder):
            raise CheckpointError(f"{folder} has checkpoints of a job {name!r}; resume it, or give another folder.")
        found = checkpoints.newest(name) if resume else None
        if found is not None:
            check(found, part, prepared.workload.job(name))
            begun[name] = found
    return begun


def save(setup: LoaderSetup, request: Save, store: StoreView) -> None:
    """Write a checkpoint of a job as it is after a mini-batch.

    Raises:
        CheckpointError: it cannot be written.
    """
    saving, following = setup.saving, request.minibatch + 1
    assert saving is not None
    step = setup.schedule.step_of(following)
    facts = saving.facts.model_copy(
        update={
            "minibatch": following,
            "status": "stopped" if request.is_stopped else "running",
            "scale": tuple(store.read_scale(setup.job, step)) if saving.is_scaled else None,
        }
    )
    if restate(saving.folder, facts):
        return
    progress = {
        "losses": torch.tensor(request.losses, dtype=torch.float64),
        "metrics": torch.tensor(request.metrics, dtype=torch.float64),
        **_named("step", store.read_random(setup.job, setup.num_slots - 1, request.minibatch)),
        **_place(setup.job, following, store),
    }
    with writing(saving.folder, following, len(saving.shards), saving.keep) as writer:
        for shard, region in zip(saving.shards, request.regions, strict=True):
            block = store.tensor(region, shard.layout.block_bytes)
            writer.model.add(shard.weights(block))
            writer.optimizer.add(shard.state(block))
        writer.finish(facts, progress)


def restore(checkpoint: Checkpoint, setup: LoaderSetup, regions: Sequence[int], store: StoreView) -> None:
    """Have a job's state in host memory be that of a checkpoint. regions: where the state of each shard lies.

    Raises:
        CheckpointError: it is of another job, or damaged.
    """
    assert setup.saving is not None
    try:
        for shard, region in zip(setup.saving.shards, regions, strict=True):
            _restore_shard(checkpoint, shard, store.tensor(region, shard.layout.block_bytes))
        _restore_progress(checkpoint, setup, store)
    except CheckpointError:
        raise
    except (JobError, LookupError, ValueError, TypeError, RuntimeError) as reason:
        raise CheckpointError(f"job {setup.job!r} cannot go on from {checkpoint.path}: {told(reason)}") from None


def check(checkpoint: Checkpoint, part: Partition, job: TrainingJob) -> None:
    """Make sure that a checkpoint is of a job, as far as can be told without reading its tensors.

    Raises:
        CheckpointError, JobError: it is not.
    """
    facts, expected = checkpoint.facts, _facts(part, job.schedule)
    for name in ("optimizer", "minibatches", "evaluation_minibatches", "accumulate"):
        found, wanted = getattr(facts, name), getattr(expected, name)
        if found != wanted:
            raise CheckpointError(
                f"job {job.name!r} cannot go on from {checkpoint.path}: its {name} is {found}, and {wanted} of the job."
            )
    if facts.minibatch > job.num_minibatches:
        raise CheckpointError(
            f"job {job.name!r} has {job.num_minibatches} mini-batches; {checkpoint.path} has trained for more."
        )
    checkpoint.weights.check(part.job.named_parameters)


def _restore_shard(checkpoint: Checkpoint, shard: SavedShard, block: torch.Tensor) -> None:
    for name, tensor in shard.weights(block).items():
        tensor.copy_(checkpoint.weights.read(name))
    if not shard.layout.state:
        return
    flags = shard.layout.flags(block)
    flags.zero_()
    for name, entry in shard.named_state.items():
        if name in checkpoint.optimizer.files:
            entry.slot.view(block).copy_(checkpoint.optimizer.read(name))
            flags[entry.parameter] = 1


def _restore_progress(checkpoint: Checkpoint, setup: LoaderSetup, store: StoreView) -> None:
    """Put into host memory what the next units and the loader go on from, beside the state."""
    progress, following = checkpoint.progress, checkpoint.facts.minibatch
    store.write_random(setup.job, setup.num_slots - 1, following - 1, _unnamed("step", progress))
    for evaluates, which in _LOADERS.items():
        record = b""  # of none that goes on; one that was begun since does not count either
        if (begun := progress.get(f"{which}.begun")) is not None:
            epoch = f"{which}.epoch"
            record = pickle.dumps((int(begun.item()), _unnamed(epoch, progress), _orders(epoch, progress)))
        store.write_loader(setup.job, "epoch", evaluates, record)
        orders = _orders(which, progress)
        store.write_loader(setup.job, "orders", evaluates, pickle.dumps(orders) if orders else b"")
    if checkpoint.facts.scale is not None:
        store.write_scale(setup.job, setup.schedule.step_of(following), Scale(*checkpoint.facts.scale))


def _place(job: str, following: int, store: StoreView) -> dict[str, torch.Tensor]:
    """Return where the loaders are when a mini-batch is to follow; it may have been fetched already."""
    found: dict[str, torch.Tensor] = {}
    for evaluates, which in _LOADERS.items():
        orders = _unpickled(store.read_loader(job, "orders", evaluates)) or []
        if record := _unpickled(store.read_loader(job, "epoch", evaluates)):
            begun, state, begun_orders = record
            if begun == following:  # its fetch has begun the epoch, and drawn its order
                orders = begun_orders
            else:
                found[f"{which}.begun"] = torch.tensor(begun)
                found |= _named(f"{which}.epoch", state) | _numbered(f"{which}.epoch", begun_orders)
        found |= _numbered(which, orders)
    return found


def _named(what: str, state: bytes) -> dict[str, torch.Tensor]:
    return {f"{what}.random.{name}": tensor for name, tensor in randomness.tensors_of(state).items()}


def _unnamed(what: str, progress: Mapping[str, torch.Tensor]) -> bytes:
    start = f"{what}.random."
    return randomness.state_of({name[len(start) :]: t for name, t in progress.items() if name.startswith(start)})


def _numbered(what: str, orders: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{what}.orders.{number}": order for number, order in enumerate(orders)}


def _orders(what: str, progress: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    start = f"{what}.orders."
    found = {int(name[len(start) :]): tensor for name, tensor in progress.items() if name.startswith(start)}
    return [found[number] for number in sorted(found)]


def _unpickled(data: bytes) -> Any:
    return pickle.loads(data) if data else None


def _shards(part: Partition) -> tuple[SavedShard, ...]:
    job = part.job
    whole = job.model if isinstance(job.model, torch.nn.Module) else job.module
    names = job.names | {id(buffer): name for name, buffer in whole.named_buffers()}
    return tuple(
        SavedShard(
            tuple(names[id(parameter)] for parameter in parameters_of(layers)),
            tuple(names[id(buffer)] for buffer in buffers_of(layers)) if pilot.layout.buffers else (),
            pilot.layout,
        )
        for layers, pilot in zip(job.shards(part.cuts), part.shards, strict=True)
    )


def _facts(part: Partition, schedule: Schedule) -> Facts:
    return Facts(
        minibatch=0,
        status="running",
        optimizer=type(part.job.whole_optimizer).__name__,
        minibatches=schedule.minibatches,
        evaluation_minibatches=schedule.evaluation_minibatches,
        accumulate=schedule.accumulate,
    )
