"""What a way to train is to the race: it builds all jobs, trains them for some mini-batches, and says what it lost."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from experiments.peers.workloads import PeerWorkload

Losses = dict[str, list[float]]  # one a mini-batch, by job
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """What is trained: workload and optimizer, and the policy by which ours does it."""

    workload: PeerWorkload
    optimizer: str
    policy: str = "resident-lrtf"


@dataclass(frozen=True)
class Rank:
    """One process of a contender. rendezvous: a file that does not exist yet, by which ranks find each other."""

    index: int = 0
    count: int = 1
    rendezvous: str = ""


@dataclass(frozen=True)
class Run:
    """One rank's part of a run. begin_s, end_s: on the clock that all processes of the machine share.

    losses: of the mini-batches that this rank knows of; where several know one, each knows that of an equal part.
    core_s: CPU seconds by what took them.
    """

    begin_s: float
    end_s: float
    losses: Losses = field(default_factory=dict)
    core_s: Mapping[str, float] = field(default_factory=dict)


class Contender(ABC):
    """One rank of a way to train, in a process of its own with one thread.

    registered_name: how the race calls it. num_ranks: its processes. exact: whether its losses are the reference's bit
    for bit. variants: settings to choose from, by a trial before the race. within_budget: whether only variants that
    take no more memory than ours may be chosen. packages: what must be installed.
    """

    registered_name: ClassVar[str]
    num_ranks: ClassVar[int] = 2
    exact: ClassVar[bool] = False
    within_budget: ClassVar[bool] = False
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    packages: ClassVar[tuple[str, ...]] = ()

    def __init__(self, task: Task, rank: Rank) -> None:
        self.task, self.rank = task, rank

    @classmethod
    def offers(cls, optimizer: str) -> tuple[dict[str, Any], ...]:
        """Return the variants that there are for an optimizer."""
        return cls.variants

    @abstractmethod
    def begin(self, options: Options) -> None:
        """Build every job anew, from its first weights, in the variant that the options describe."""

    @abstractmethod
    def train(self, minibatches: Mapping[str, int]) -> Losses:
        """Train each of these jobs for so many more mini-batches, and return their losses."""

    def run(self, minibatches: Mapping[str, int]) -> Run:
        """Train and take the time."""
        begin_s, begin_core_s = time.monotonic(), time.process_time()
        losses = self.train(minibatches)
        return Run(begin_s, time.monotonic(), losses, {"training": time.process_time() - begin_core_s})

    def memory_bytes(self) -> int | None:
        """Return what this rank holds at most while it trains the largest model; None if it does not know.

        Counted as a device's budget is: weights, gradients, optimizer state, activations and temporaries.
        """
        return None

    def facts(self) -> dict[str, Any]:
        """Return what is worth knowing of its settings."""
        return {}
