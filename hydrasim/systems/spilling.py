"""FairScale's OffloadModel: a model lies in host memory, and slice by slice comes to one device and goes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from hydrasim.errors import SystemRefused
from hydrasim.systems.base import Build, System
from hydrasim.systems.passes import saved_bytes
from hydrasim.systems.stages import Stage, input_bytes, temporary_bytes
from hydrasim.workload import Phase, TrainingJob

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.workload import Workload


@dataclass(frozen=True)
class Spilling(System):
    """Every device trains a job alone, a slice of whose layers is there at a time; the optimizer is on the host.

        h2d      load 0          .        load 1          .            a slice goes back after its forward too,
        compute  .      forward 0         .      forward 1             though nothing in it has changed, and takes
        d2h      .               store 0  .               store 1      its boundary input along

    Only boundary inputs are kept: a backward loads its slice and that, runs the forward again, and stores parameters
    and gradients. When all gradients are on the host, the optimizer steps there.

    num_slices: None for the smallest divisor of the number of layers (shards) such that a slice fits. prefetch: load
    the next slice while one computes, with room for two. The original does not: its copies have streams of their own,
    but they are from and to pageable memory, which the host waits for, as it waits for every boundary. Here they are
    as fast as pinned ones. A backward's seconds hold the update that SHARP makes on the device, so it is in the time
    twice.

    Source: fairscale/experimental/nn/offload.py (OffloadFunction, with checkpoint_activation=True and one
    micro-batch); the choice of slices from Saturn's examples/wikitext103/executors/Spilled.py.
    """

    num_slices: int | None = None
    prefetch: bool = False

    def __post_init__(self) -> None:
        self.require(1, "num_slices")

    def groups(self, workload: Workload, cluster: Cluster) -> list[tuple[int, ...]]:
        return [(device,) for device in range(len(cluster.devices))]

    def memory_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> list[int]:
        if len(devices) != 1:
            raise SystemRefused(f"{self.name} trains a job on one device, not on {len(devices)}.")
        return [self._need_bytes(job, self.slices(job, cluster, devices[0]))]

    def host_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> int:
        slices = self.slices(job, cluster, devices[0])
        state = sum(shard.state_bytes + shard.parameter_bytes for shard in job.shards)
        return state + sum(input_bytes(job, layers[0]) for layers in slices)

    def slices(self, job: TrainingJob, cluster: Cluster, device: int) -> list[Stage]:
        """Return the layers of each slice; the smallest slices when none fit."""
        count = len(job.shards)
        if self.num_slices is not None:
            return _cut(count, min(self.num_slices, count))
        cuts = [_cut(count, number) for number in range(1, count + 1) if not count % number]
        room = cluster.devices[device].memory_bytes
        return next((slices for slices in cuts if self._need_bytes(job, slices) <= room), cuts[-1])

    def minibatch(self, build: Build, minibatch: int) -> None:
        job, (device,) = build.job, build.devices
        slices = self.slices(job, build.cluster, device)
        before = build.feed(device, job.input_bytes + job.target_bytes, minibatch, build.fetch(minibatch))
        stored: list[int] = []
        uses = [(Phase.FORWARD, layers) for layers in slices] + [(Phase.BACKWARD, layers) for layers in slices[::-1]]
        for phase, layers in uses:
            forward, boundary = phase is Phase.FORWARD, input_bytes(job, layers[0])
            nbytes = sum(job.shards[shard].parameter_bytes for shard in layers)
            room = stored[-2:-1] if self.prefetch else stored[-1:]  # what must have left the device
            loaded = build.load(device, nbytes + (0 if forward else boundary), minibatch, room, layers[0])
            again = [] if forward else [(Phase.FORWARD, shard) for shard in layers]
            for passed, shard in again + [(phase, shard) for shard in (layers if forward else reversed(layers))]:
                seconds = build.passes.forward_s if passed is Phase.FORWARD else build.passes.backward_s
                after = [before, loaded, *stored[len(slices) :][-1:]]  # room for gradients: those before have left
                before = build.compute(device, passed, shard, minibatch, seconds(shard, device, minibatch), after)
            out = nbytes + boundary if forward else 2 * nbytes
            stored.append(build.store(device, out, minibatch, [before], layers[0]))
        step = sum(3 * shard.parameter_bytes + 2 * shard.optimizer_bytes for shard in job.shards)  # read and written
        build.barrier = frozenset([build.update(device, step, minibatch, stored[-1:])])

    def _need_bytes(self, job: TrainingJob, slices: Sequence[Stage]) -> int:
        """Return the most that a slice needs: parameters, gradients, what its forward leaves, one layer's peak.

        Beside it there are inputs and targets, and, with prefetch, the parameters and boundary of another slice.
        """
        parameters = [sum(job.shards[shard].parameter_bytes for shard in layers) for layers in slices]
        ahead = max(n + input_bytes(job, layers[0]) for n, layers in zip(parameters, slices, strict=True))
        needs = (
            2 * nbytes + input_bytes(job, layers[0]) + sum(saved_bytes(job, s) for s in layers)
            + temporary_bytes(job, layers) for nbytes, layers in zip(parameters, slices, strict=True)
        )  # fmt: skip
        return max(needs) + job.input_bytes + job.target_bytes + (ahead if self.prefetch else 0)


def _cut(num_shards: int, num_slices: int) -> list[Stage]:
    """Return that many slices, as equal as can be."""
    ends = [num_shards * order // num_slices for order in range(num_slices + 1)]
    return [range(start, end) for start, end in pairwise(ends)]
