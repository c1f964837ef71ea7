"""A workload small enough that starting processes is what takes the time."""

from __future__ import annotations

from experiments.peers.contender import Task
from experiments.peers.workloads import PeerWorkload
from experiments.workloads import GptSpec

TINY = PeerWorkload(
    "tiny",
    (GptSpec("A", 32, 2, 2, 2, 1, 1e-3), GptSpec("B", 48, 4, 2, 1, 1, 1e-3)),
    rivals=("ideal",),
    context=16,
    num_checked=2,
)
CHECKED = dict.fromkeys(TINY.minibatches, TINY.num_checked)


def task(optimizer: str = "adamw") -> Task:
    return Task(TINY, optimizer)
