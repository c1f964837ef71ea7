"""Tiny named worlds and the words to question their timelines with; all durations are dyadic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hydrasim import Cluster, Device, Link, Shard, Timeline, TrainingJob, Workload
from hydrasim.policies import Policy
from hydrasim.timeline import Span
from hydrasim.view import View
from hydrasim.workload import ShardUnit

BYTE_A_SECOND = Link(bytes_per_s=1.0)
BLOCK = 64  # the smallest block: one alignment unit


def job(name: str = "A", shards: int = 1, minibatches: int = 1, seconds: float = 1.0, **fields: object) -> TrainingJob:
    """Return a job whose forward and backward passes take `seconds` each and recompute nothing."""
    fields = {"activation_mode": "keep"} | fields
    return TrainingJob(name, (Shard(seconds, seconds),) * shards, minibatches, **fields)


def workload(*jobs: TrainingJob) -> Workload:
    return Workload(jobs)


def fig6() -> Workload:
    """Return the paper's Fig. 6: three models of two shards, every shard unit takes 1."""
    return workload(*(job(name, shards=2, fused=False) for name in "ABC"))


def heavy(name: str, *, minibatches: int = 1, compute_s: float = 64.0, blocks: int = 1, shards: int = 1) -> TrainingJob:
    """Return a fused job of equal shards; an L or B unit takes `compute_s`, parameters fill `blocks` blocks."""
    shard = Shard(0.0, compute_s, parameter_bytes=blocks * BLOCK)
    return TrainingJob(name, (shard,) * shards, minibatches, activation_mode="keep")


def devices(count: int = 1, blocks: int = 1 << 20, link: Link | None = None, **fields: object) -> Cluster:
    """Return equal devices with memory for that many blocks; `link` serves both directions."""
    link = Link() if link is None else link
    return Cluster.of(count, Device(blocks * BLOCK, h2d=link, d2h=link, **fields))


@dataclass(frozen=True)
class Script(Policy):
    """Run each unit on the device that the script names for it, device 0 if none."""

    device_of: Mapping[str, int] = field(default_factory=dict)

    def choose(self, device: int, view: View) -> ShardUnit | None:
        return next((u for u in view.eligible(device) if self.device_of.get(str(u), 0) == device), None)


def spans(timeline: Timeline, kind: str, unit: str | None = None, device: int | None = None) -> list[Span]:
    """Return the spans of a kind, of one unit and one device if given, by start."""
    found = [
        span
        for span in timeline.spans
        if span.kind == kind and unit in (None, span.unit) and device in (None, span.device)
    ]
    return sorted(found, key=lambda span: (span.start_s, span.number))


def units(timeline: Timeline, device: int | None = None) -> list[str]:
    """Return the units in the order in which they began to compute."""
    return [span.unit for span in spans(timeline, "compute", device=device)]


def times(timeline: Timeline, kind: str, unit: str | None = None) -> list[tuple[float, float]]:
    """Return (start_s, end_s) of the spans of a kind."""
    return [(span.start_s, span.end_s) for span in spans(timeline, kind, unit)]
