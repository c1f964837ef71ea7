"""How busy devices were, by three definitions that people call utilization; name the one that you show.

- "compute-busy": the share of the makespan in which the device computes a unit. Copies do not count, nor do
  collectives. One minus it is what summaries call idle.
- "any-lane-busy": the share of the makespan in which at least one of the device's lanes is busy: it computes,
  copies, takes part in a collective, or has its host-side update run. A send counts at its sender.
- "nvidia-smi-like": what `nvidia-smi --query-gpu=utilization.gpu --loop=1` would show on average. NVML reports
  the percentage of the last sample period during which one or more kernels were executing; here the period is
  a sixth of a second, read at every full second, and once at the end of a run that is shorter than one.
  Computations and collectives are kernels (NCCL's are); copies between host and device, and sends, are the
  work of copy engines and do not count. It says nothing of how much of the device a kernel fills.

Source of the last: NVML API reference, nvmlUtilization_t (its period is between 1/6 s and 1 s, by product).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from hydrasim.command import Kind

if TYPE_CHECKING:
    from hydrasim.command import Finished
    from hydrasim.timeline import Span, Timeline

UtilizationKind = Literal["compute-busy", "any-lane-busy", "nvidia-smi-like"]
UTILIZATION_KINDS: tuple[UtilizationKind, ...] = get_args(UtilizationKind)


class Interval(NamedTuple):
    """A stretch of time, in seconds."""

    start_s: float
    end_s: float

    @classmethod
    def of(cls, lasted: Span | Finished) -> Interval:
        return cls(lasted.start_s, lasted.end_s)


_PERIODS_PER_S = 6
_COUNTED: dict[UtilizationKind, frozenset[str]] = {
    "compute-busy": frozenset({Kind.COMPUTE.value}),
    "any-lane-busy": frozenset(kind.value for kind in Kind),
    "nvidia-smi-like": frozenset({Kind.COMPUTE.value, Kind.GATHER.value}),
}


def utilization(timeline: Timeline, device: int | None = None, kind: UtilizationKind = "compute-busy") -> float:
    """Return the utilization of one device, or the average over all, from 0 to 1."""
    if not timeline.makespan_s:
        return 0.0
    devices = range(timeline.num_devices) if device is None else (device,)
    count = _sampled_s if kind == "nvidia-smi-like" else total_s
    busy = 0.0
    for index in devices:
        spans = (span for span in timeline.by_device[index] if span.kind in _COUNTED[kind])
        busy += count(busy_intervals(map(Interval.of, spans)), timeline.makespan_s)
    return busy / (len(devices) * count([Interval(0.0, timeline.makespan_s)], timeline.makespan_s))


def busy_intervals(parts: Iterable[Interval]) -> list[Interval]:
    """Return when at least one of the intervals lasted, as intervals in order that do not touch."""
    merged: list[Interval] = []
    for start_s, end_s in sorted(parts):
        if merged and start_s <= merged[-1].end_s:
            merged[-1] = Interval(merged[-1].start_s, max(merged[-1].end_s, end_s))
        else:
            merged.append(Interval(start_s, end_s))
    return merged


def total_s(intervals: Iterable[Interval], _: float = 0.0) -> float:
    """Return the seconds of intervals that do not touch."""
    return sum(end_s - start_s for start_s, end_s in intervals)


def _sampled_s(intervals: list[Interval], makespan_s: float) -> float:
    """Return how many sample periods the intervals fill, of those that are read in a run of that length."""
    last_s = math.floor(makespan_s)
    if last_s:
        return sum(
            _sampled_until(min(end_s, last_s)) - _sampled_until(min(start_s, last_s)) for start_s, end_s in intervals
        )
    opened_s = max(0.0, makespan_s - 1 / _PERIODS_PER_S)
    return sum(max(0.0, end_s - max(start_s, opened_s)) for start_s, end_s in intervals)


def _sampled_until(now_s: float) -> float:
    """Return how many sample periods lie before a moment, the last one in part; each ends at a full second."""
    full_s = math.floor(now_s)
    return full_s + max(0.0, _PERIODS_PER_S * (now_s - full_s - 1) + 1)
