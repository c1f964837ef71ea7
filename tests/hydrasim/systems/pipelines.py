"""Tiny worlds for systems that cut a model into stages, and a pipeline's times by an independent recurrence."""

from __future__ import annotations

from collections.abc import Sequence

from hydrasim import Cluster, Device, Link, Shard, Timeline, TrainingJob, Workload
from hydrasim.workload import ShardUnit


def stack(
    forward_s: Sequence[float], *, name: str = "A", minibatches: int = 1, output_bytes: int = 0, **fields: int
) -> TrainingJob:
    """Return a job whose shards' forwards take so long, and whose backwards twice as long."""
    shards = tuple(Shard(s, 2 * s, output_bytes=output_bytes, **fields) for s in forward_s)
    return TrainingJob(name, shards, minibatches, activation_mode="keep")


def peers(count: int, peer: Link | None = None, memory_bytes: int = 1 << 30) -> Cluster:
    """Return devices with links to each other; by default sends take no time."""
    return Cluster.of(count, Device(memory_bytes, peer=Link() if peer is None else peer))


def one(job: TrainingJob) -> Workload:
    return Workload((job,))


def flow_shop_s(forward_s: Sequence[float], backward_s: Sequence[float], send_s: float, count: int) -> float:
    """Return the makespan of GPipe without recomputation: a flow shop forward, another one back.

    Sends are machines between the stages. A machine is free again when its own job before is done, and a job
    comes when the machine before has done it: C[machine][job] = max(C[machine][job-1], C[machine-1][job]) + p.
    """

    def shop(machines: Sequence[float], free_s: Sequence[float]) -> list[float]:
        ends = list(free_s)
        for _ in range(count):
            come_s = 0.0
            for machine, seconds in enumerate(machines):
                ends[machine] = come_s = max(ends[machine], come_s) + seconds
        return ends

    def with_sends(stages: Sequence[float]) -> list[float]:
        return [part for stage in stages for part in (stage, send_s)][:-1]

    there = with_sends([seconds / count for seconds in forward_s])
    back = with_sends([seconds / count for seconds in reversed(backward_s)])
    turned = shop(there, [0.0] * len(there))
    return shop(back, turned[::-1])[-1]


def most_alive(timeline: Timeline, device: int) -> int:
    """Return how many micro-batches have gone forward on a device and not yet back, at most."""
    alive = most = 0
    for span in sorted((s for s in timeline.spans if s.kind == "compute" and s.device == device), key=_number):
        alive += 1 if ShardUnit.parse(span.unit).phase.value == "F" else -1
        most = max(most, alive)
    return most


def _number(span: object) -> int:
    return span.number  # type: ignore[attr-defined]
