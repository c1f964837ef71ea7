"""What copies take at least, however a block is cut: residency loads slices, and a part may go at a better rate.

Measured seconds lie on lines between measured sizes. Along a line, bytes a second only rise or only fall, so the best
rate of a part is at a measured size, or is that of the whole.

    seconds |            o 6       three bytes take 1 s, six take 6: two copies of three are quicker than one of six,
            | o 1 .  o 1           which takes 2 s at least, and four bytes 4/3
             bytes 1  3     6
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hydrasim.dag import minibatch_dag
from hydrasim.dataflow import block_bytes, dataflow
from hydrasim.workload import ShardUnit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hydrasim.cluster import Direction
    from hydrasim.profile import CostModel
    from hydrasim.workload import Workload


class LeastCopies:
    """The least seconds of copies and the best rate that any of them reaches, by device and direction.

    The sizes between which a cost model's seconds are on lines are its `copy_sizes(device, direction)`. A cost model
    without it is taken at its word for whole blocks alone: that none of their parts goes at a better rate.
    """

    def __init__(self, workload: Workload, costs: CostModel) -> None:
        self._costs = costs
        self._blocks = sorted(set(_sizes(workload)))
        self._points: dict[tuple[int, Direction], list[tuple[int, float]]] = {}
        self._known: dict[tuple[int, int, Direction], float] = {}

    def seconds(self, nbytes: int, device: int, direction: Direction) -> float:
        """Return what so many bytes take at least, or more of the same block; bytes that do not exist take nothing."""
        if nbytes <= 0:
            return 0.0
        key = nbytes, device, direction
        if key not in self._known:
            whole_s = self._costs.copy_s(nbytes, device, direction)
            parts_s = (seconds * max(1.0, nbytes / size) for size, seconds in self._measured(device, direction))
            self._known[key] = min([whole_s, *parts_s])
        return self._known[key]

    def bytes_per_s(self, device: int, direction: Direction, latency_s: float = 0.0) -> float:
        """Return the best rate that any copy reaches, once it has waited for a latency."""
        points = [(size, seconds - latency_s) for size, seconds in self._measured(device, direction)]
        return max((size / seconds if seconds > 0 else math.inf for size, seconds in points), default=math.inf)

    def _measured(self, device: int, direction: Direction) -> list[tuple[int, float]]:
        """Return the seconds of all sizes where a rate may be best, up to the largest block."""
        key = device, direction
        if key not in self._points:
            copy_sizes = getattr(self._costs, "copy_sizes", None)
            largest = self._blocks[-1] if self._blocks else 0
            corners = [size for size in copy_sizes(device, direction) if 0 < size <= largest] if copy_sizes else []
            sizes = sorted({*self._blocks, *corners})
            self._points[key] = [(size, self._costs.copy_s(size, device, direction)) for size in sizes]
        return self._points[key]


def _sizes(workload: Workload) -> Iterator[int]:
    """Yield the sizes of all blocks, and of the leading parts that units read."""
    for job in workload.jobs:
        for phase, shard in minibatch_dag(job).nodes:
            flow = dataflow(job, ShardUnit(job.name, phase, shard, job.accumulate - 1))
            sizes = [need for _, need in flow.reads] + [block_bytes(job, key) for key in flow.touched]
            yield from (size for size in sizes if size > 0)
