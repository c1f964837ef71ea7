"""What data-parallel systems share: a rank a device, and layers that are whole on it only while they are used.

One layer (a shard of the workload) on one rank, the next layers being on their way meanwhile; h2d is for pieces that
lie in host memory:

    h2d      piece 0  piece 1  piece 2 .        .          a piece is 1/n of a layer's parameters
    peer     .        gather 0 gather 1 gather 2 .          together the ranks' pieces are the layer
    compute  .        .        layer 0  layer 1  layer 2    each rank computes 1/n of the mini-batch
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from hydrasim.systems.base import Build, System
from hydrasim.systems.passes import saved_bytes
from hydrasim.workload import Phase, TrainingJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hydrasim.cluster import Cluster


class Use(NamedTuple):
    """A pass through a layer, and the layers that may be gathered once the use before it is over, in order."""

    phase: Phase
    shard: int
    gathers: tuple[int, ...]


def gathering(
    layer_bytes: Sequence[int], may_prefetch: Callable[[int, int, int], bool], stays: Callable[[int], bool]
) -> tuple[list[Use], int]:
    """Return when layers are gathered, there through the model and back, and the most bytes of them at once.

    may_prefetch: whether a layer may be gathered ahead, by how many uses ahead it is, the bytes gathered ahead
    before it, and the bytes of all layers that are there. stays: whether a layer is kept from its forward to its
    backward; one that a prefetch already comes across is kept as well.
    """
    count = len(layer_bytes)
    order = [*range(count), *reversed(range(count))]
    here: set[int] = set()
    ahead: list[int] = []  # gathered and not yet used
    uses: list[Use] = []
    following = peak_bytes = 0  # the first use whose layer is not provided for
    for now, shard in enumerate(order):
        ahead = [layer for layer in ahead if layer != shard]
        gathers: list[int] = []
        while following < len(order):
            here_bytes, ahead_bytes = (sum(layer_bytes[layer] for layer in found) for found in (here, ahead))
            if following > now and not may_prefetch(following - now, ahead_bytes, here_bytes):
                break
            if (layer := order[following]) not in here:
                gathers.append(layer)
                here.add(layer)
                if following > now:
                    ahead.append(layer)
            following += 1
        peak_bytes = max(peak_bytes, sum(layer_bytes[layer] for layer in here))
        forward = now < count
        uses.append(Use(Phase.FORWARD if forward else Phase.BACKWARD, shard, tuple(gathers)))
        needed_again = forward and (stays(shard) or following > len(order) - 1 - now)
        if not needed_again:
            here.discard(shard)
    return uses, peak_bytes


def piece(nbytes: int, count: int) -> int:
    """Return what each of `count` ranks holds of so many bytes."""
    return -(-nbytes // count)


def activation_bytes(job: TrainingJob, count: int, *, recompute: bool) -> int:
    """Return what a rank's forwards leave for its backwards, and one shard's peak, for its part of a mini-batch."""
    left = sum(shard.output_bytes if recompute else saved_bytes(job, s) for s, shard in enumerate(job.shards))
    inputs = job.input_bytes + job.target_bytes
    return piece(inputs + left + max(shard.working_bytes for shard in job.shards), count)


def load_inputs(build: Build, minibatch: int) -> list[int]:
    """Fetch a mini-batch and load each rank's part of it; return what ranks begin after."""
    fetched = build.fetch(minibatch)
    nbytes = piece(build.job.input_bytes + build.job.target_bytes, len(build.devices))
    return [build.feed(device, nbytes, minibatch, fetched) for device in build.devices]


def run_pass(
    build: Build, phase: Phase, shard: int, minibatch: int, after: Sequence[Iterable[int]], *, recompute: bool
) -> list[int]:
    """Take every rank's part of a mini-batch through a shard; after: by rank. A backward may run the forward again.

    A rank's part takes 1/n of the whole's seconds: that small kernels use a device less well is not modelled.
    """
    computes = []
    for device, before in zip(build.devices, after, strict=True):
        seconds = 0.0
        if phase is Phase.FORWARD or recompute:
            seconds += build.passes.forward_s(shard, device, minibatch)
        if phase is Phase.BACKWARD:
            seconds += build.passes.backward_s(shard, device, minibatch)
        computes.append(build.compute(device, phase, shard, minibatch, seconds / len(build.devices), before))
    return computes


@dataclass(frozen=True)
class Sharded(System):
    """Layers are gathered before their use and given up after it; in the backward their gradients are reduce-scattered.

    Two layers' gradients fit: a backward waits until those of the last but one are gone. Ranks need no staging memory
    for pieces.

    recompute: keep only each layer's input, and run its forward again before its backward. mixed_precision: the
    workload states parameters in fp32 and computes in half, as under autocast, which it does not say of itself; layers
    are then whole, and their gradients reduced, in half. Otherwise all moves as the workload states it.

    Source of the latter: torch 2.13 MixedPrecisionPolicy(param_dtype=torch.bfloat16), whose reduce_dtype is that too
    where it is not stated; DeepSpeed with bf16 or fp16 and a communication_data_type to match.
    """

    recompute: bool = True
    mixed_precision: bool = False

    @abstractmethod
    def gathering(self, job: TrainingJob, num_ranks: int) -> tuple[list[Use], int]:
        """See `gathering`, of the job's shards by this system's rules."""

    @abstractmethod
    def gather(self, build: Build, shard: int, minibatch: int, after: Sequence[int]) -> list[int]:
        """Make a layer whole on every rank; after, and what is returned: by rank."""

    @abstractmethod
    def scatter(self, build: Build, shard: int, minibatch: int, computes: list[int]) -> list[int]:
        """Sum up a layer's gradients over the ranks, and leave every rank its piece where the optimizer finds it."""

    def layer_bytes(self, job: TrainingJob) -> list[int]:
        """Return what each layer weighs while it is whole, and its gradients before they are reduced."""
        return [self.computed_bytes(shard.parameter_bytes) for shard in job.shards]

    def computed_bytes(self, nbytes: int) -> int:
        """Return what so many bytes of parameters weigh in the precision that computes."""
        return piece(nbytes, 2) if self.mixed_precision else nbytes

    def exchange(self, build: Build, shard: int, minibatch: int, after: Sequence[int]) -> list[int]:
        """All-gather a layer's parameters or reduce-scatter its gradients; a single rank has all there is."""
        if len(build.devices) == 1:
            return list(after)
        return build.collective(self.layer_bytes(build.job)[shard], minibatch, after, shard)

    def memory_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> list[int]:
        layer_bytes = self.layer_bytes(job)
        gradient_bytes = max((sum(pair) for pair in pairwise(layer_bytes)), default=layer_bytes[0])
        _, gathered_bytes = self.gathering(job, len(devices))
        left = activation_bytes(job, len(devices), recompute=self.recompute)
        return [gathered_bytes + gradient_bytes + left] * len(devices)

    def there_and_back(self, build: Build, minibatch: int) -> list[int]:
        """Take a mini-batch through the model and back; return by rank what its step follows."""
        ranks = range(len(build.devices))
        whole: dict[int, list[int]] = {}  # layer -> by rank, what makes it complete
        scattered: list[list[int]] = []  # by backward and rank
        before = load_inputs(build, minibatch)
        for phase, shard, gathers in self.gathering(build.job, len(ranks))[0]:
            for layer in gathers:
                whole[layer] = self.gather(build, layer, minibatch, before)
            after = [[before[rank], whole[shard][rank], *(last[rank] for last in scattered[-2:-1])] for rank in ranks]
            recompute = self.recompute and phase is Phase.BACKWARD
            before = run_pass(build, phase, shard, minibatch, after, recompute=recompute)
            if phase is Phase.BACKWARD:
                scattered.append(self.scatter(build, shard, minibatch, before))
        return scattered[-1]


@dataclass(frozen=True)
class ShardedOffload(Sharded):
    """Parameters, gradients and optimizer state lie in host memory, 1/n with each rank, whose optimizer steps there.

    To gather a layer each rank loads its piece, then all exchange them; each stores its piece of the gradients. When
    all are in host memory, the optimizer steps there, and only then the next mini-batch begins. One rank loads and
    stores all there is, and exchanges nothing.

    A backward's seconds hold the update that SHARP makes on the device; profiles have no number for it alone, so
    here it is in the time twice.

    casts_on_host: in mixed precision the host keeps parameters in half too, beside those that the optimizer steps, and
    what it copies to and from a rank is in half; otherwise the rank casts.
    """

    casts_on_host: ClassVar[bool] = False

    def host_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> int:
        return sum(2 * shard.parameter_bytes + shard.optimizer_bytes for shard in job.shards) + self._cast_bytes(job)

    def update_bytes(self, job: TrainingJob, num_ranks: int) -> int:
        """Return what host memory carries for a rank's step.

        It reads gradients, and reads and writes parameters and optimizer state: 28 bytes a parameter for Adam in fp32.
        It writes the parameters in half, where there are any.
        """
        stepped = sum(3 * shard.parameter_bytes + 2 * shard.optimizer_bytes for shard in job.shards)
        return piece(stepped + self._cast_bytes(job), num_ranks)

    def minibatch(self, build: Build, minibatch: int) -> None:
        nbytes = self.update_bytes(build.job, len(build.devices))
        stored = self.there_and_back(build, minibatch)
        build.barrier = frozenset(
            build.update(device, nbytes, minibatch, [last]) for device, last in zip(build.devices, stored, strict=True)
        )

    def gather(self, build: Build, shard: int, minibatch: int, after: Sequence[int]) -> list[int]:
        nbytes = self._piece_bytes(build, shard)
        loads = [
            build.load(device, nbytes, minibatch, [before], shard)
            for device, before in zip(build.devices, after, strict=True)
        ]
        return self.exchange(build, shard, minibatch, loads)

    def scatter(self, build: Build, shard: int, minibatch: int, computes: list[int]) -> list[int]:
        nbytes, parts = self._piece_bytes(build, shard), self.exchange(build, shard, minibatch, computes)
        return [
            build.store(device, nbytes, minibatch, [part], shard)
            for device, part in zip(build.devices, parts, strict=True)
        ]

    def _piece_bytes(self, build: Build, shard: int) -> int:
        """Return what a rank copies of a layer, or of its gradients."""
        nbytes = build.job.shards[shard].parameter_bytes
        return piece(self.computed_bytes(nbytes) if self.casts_on_host else nbytes, len(build.devices))

    def _cast_bytes(self, job: TrainingJob) -> int:
        """Return what the host keeps of parameters in half."""
        return sum(self.layer_bytes(job)) if self.casts_on_host and self.mixed_precision else 0
