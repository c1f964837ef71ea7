"""GPipe: a pipeline of stages through which the micro-batches of a mini-batch go forward, and then all back."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hydrasim.errors import SystemRefused
from hydrasim.profile import MAX_SECONDS
from hydrasim.systems.passes import saved_bytes
from hydrasim.systems.stages import Places, Stage, Staged, fed_bytes, input_bytes, part_of, temporary_bytes
from hydrasim.workload import Phase, TrainingJob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrasim.systems.base import Build

MAX_MICROBATCHES = 1024

Pass = tuple[Phase, int]  # of a micro-batch through a stage


@dataclass(frozen=True)
class GPipe(Staged):
    """One job at a time on all devices: all micro-batches go forward, then all backward, last one first; flush.

        device 1  .   F0  F1  F2  B2  B1  B0  .       unit X/F4#7 is a forward through the stage that begins with
        device 0  F0  F1  F2  .   .   B2  B1  B0      shard 4, of micro-batch 7 counted over the whole job, and
                                                      again when run again; noise is that of this shard

    A pass of a micro-batch takes its part of what the mini-batch takes, update included, and
    microbatch_overhead_s: that smaller kernels fill a device less is modelled by nothing else. Boundaries are
    sent beside the computing.

    microbatches: of a mini-batch; None for as many as stages. recompute: whether a stage keeps only the inputs
    of micro-batches and runs their forwards again, of "always" all, of "except_last" all but the last one, which
    goes back at once, or "never". A device does so while it waits for the gradient.

    Source: Huang et al., GPipe (2019), section 2 and Fig. 2c. The paper's baseline has as many micro-batches as
    devices; the authors' later scripts use torchgpipe (pipeline.py, checkpoint.py), which recomputes ahead of the
    gradient too, and whose default is "except_last".
    """

    registered_name = "gpipe"
    allowed: ClassVar[tuple[str, ...]] = ("always", "except_last", "never")
    recomputes_ahead: ClassVar[bool] = True
    microbatches: int | None = None
    recompute: str = "except_last"
    microbatch_overhead_s: float = 0.0

    def __post_init__(self) -> None:
        if self.microbatches is not None and not 1 <= self.microbatches <= MAX_MICROBATCHES:
            raise SystemRefused(
                f"{self.name}: microbatches is {self.microbatches}; it must be from 1 to {MAX_MICROBATCHES:,}."
            )
        if self.recompute not in self.allowed:
            raise SystemRefused(
                f"{self.name}: recompute is {self.recompute!r}; it is one of {', '.join(self.allowed)}."
            )
        if not 0 <= self.microbatch_overhead_s <= MAX_SECONDS:
            raise SystemRefused(
                f"{self.name}: microbatch_overhead_s is {self.microbatch_overhead_s}; "
                f"it must be from 0 to {MAX_SECONDS:.0e}."
            )

    def passes(self, order: int, num_stages: int, count: int) -> list[Pass]:
        """Return the passes of a mini-batch's micro-batches through the order-th stage, first to last."""
        forwards = [(Phase.FORWARD, index) for index in range(count)]
        return forwards + [(Phase.BACKWARD, index) for index in reversed(range(count))]

    def num_alive(self, order: int, num_stages: int, count: int) -> int:
        """Return how many micro-batches are on their way through the order-th stage and back at most."""
        return count

    def activation_bytes(self, job: TrainingJob, stage: Stage, order: int, places: Places) -> int:
        """Return what all micro-batches on their way leave, whole or as inputs, and the temporaries of one.

        The inputs of a whole mini-batch are loaded at once, and so are its targets.
        """
        num_stages = min(len(places), len(job.shards))
        count = self.microbatches or num_stages
        num_alive = self.num_alive(order, num_stages, count)
        whole = part_of(sum(saved_bytes(job, shard) for shard in stage), count)
        temporary = part_of(temporary_bytes(job, stage), count)
        fixed = temporary + count * fed_bytes(job, stage, count)
        if self.recompute == "never":
            return num_alive * whole + fixed
        boundary = part_of(input_bytes(job, stage[0]), count) if stage[0] else 0  # the first stage's are loaded
        return num_alive * boundary + whole + fixed

    def train(self, build: Build, minibatch: int) -> None:
        stages = self.stages(build.job, build.cluster, build.devices)
        flush = _MicroBatches(self, build, stages, minibatch)
        left = [deque(self.passes(order, len(stages), flush.count)) for order in range(len(stages))]
        while any(left):
            for order, passes in enumerate(left):
                while passes and flush.can(order, passes[0]):
                    flush.emit(order, passes.popleft())
        build.barrier = frozenset([flush.last])


class _MicroBatches:
    """Emits the passes of one mini-batch's micro-batches.

    last: the pass emitted last; at the end that is the first stage's last backward, which follows all others.
    """

    def __init__(self, system: GPipe, build: Build, stages: Sequence[Stage], minibatch: int) -> None:
        self.count, self.last = system.microbatches or len(stages), -1
        self._system, self._build, self._stages = system, build, stages
        self._first = minibatch * self.count
        job, times, final = build.job, build.passes, len(stages) - 1
        self._seconds = {
            (order, phase): sum(pass_s(shard, device, minibatch) for shard in stage) / self.count
            + system.microbatch_overhead_s
            for order, (stage, device) in enumerate(zip(stages, build.devices, strict=False))
            for phase, pass_s in ((Phase.FORWARD, times.forward_s), (Phase.BACKWARD, times.backward_s))
        }
        fetched, into = build.fetch(minibatch), part_of(job.input_bytes, self.count)
        targets = build.feed(build.devices[final], job.target_bytes, self._first, fetched)
        self._arrived: dict[tuple[int, Pass], list[int]] = {}  # what a pass through a stage waits for
        for index in range(self.count):
            inputs = build.feed(build.devices[0], into, self._first + index, fetched)
            self._arrived[0, (Phase.FORWARD, index)] = [inputs]
            self._arrived[final, (Phase.BACKWARD, index)] = [targets]

    def can(self, order: int, what: Pass) -> bool:
        """Tell whether all that a pass follows has been emitted."""
        return (order, what) in self._arrived

    def emit(self, order: int, what: Pass) -> None:
        """Emit a pass through a stage and what it sends on."""
        build, stages, (phase, index) = self._build, self._stages, what
        device, number, after = build.devices[order], self._first + index, self._arrived.pop((order, what))
        first = stages[order][0]
        if phase is Phase.BACKWARD and self._recomputes(index):
            seconds, ahead = self._seconds[order, Phase.FORWARD], self._system.recomputes_ahead
            again = build.compute(device, Phase.FORWARD, first, number, seconds, () if ahead else after)
            after = [*after, again]
        self.last = build.compute(device, phase, first, number, self._seconds[order, phase], after)
        target = order + 1 if phase is Phase.FORWARD else order - 1
        if 0 <= target < len(stages):
            boundary = stages[max(order, target)][0]  # between the two stages
            nbytes = part_of(input_bytes(build.job, boundary), self.count)
            sent = build.send(device, build.devices[target], nbytes, number, [self.last], first)
            self._arrived[target, what] = [sent]

    def _recomputes(self, index: int) -> bool:
        recompute = self._system.recompute
        return recompute == "always" or (recompute == "except_last" and index < self.count - 1)
