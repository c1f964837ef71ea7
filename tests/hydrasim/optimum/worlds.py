"""Small worlds whose optimum is worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from hydrasim import Cluster, Shard, Timeline, TrainingJob, Workload, simulate
from hydrasim.cluster import Direction
from hydrasim.optimum.problem import Placed, Problem, guess_of, problem_of
from hydrasim.profile import StatedCosts, _interpolate
from tests.worlds import BLOCK, BYTE_A_SECOND, devices, workload


def seen(jobs: Workload, cluster: Cluster, policy: str = "fifo", effects: str = "theory") -> Timeline:
    return simulate(jobs, cluster, policy, effects=effects)


def posed(jobs: Workload, cluster: Cluster, policy: str = "fifo") -> tuple[Problem, list[Placed], float]:
    """Return a workload's problem, with a guess: what a policy does without transfers."""
    problem, timeline = problem_of(jobs, cluster, StatedCosts(jobs, cluster)), seen(jobs, cluster, policy)
    return problem, guess_of(problem, timeline), timeline.makespan_s


def unfair() -> tuple[Workload, Cluster]:
    """Three jobs of one unit each, 2, 2 and 4 s, on two devices: first come first served takes 6 s, the best plan 4."""
    jobs = (TrainingJob(name, (Shard(0.0, seconds),), 1) for name, seconds in (("A", 2.0), ("B", 2.0), ("C", 4.0)))
    return workload(*jobs), devices(2)


def worth_waiting() -> tuple[Workload, Cluster]:
    """Three jobs of one unit each, 3, 4 and 3 s, on two devices; the second arrives at 1. The best plan takes 6 s."""
    units = (("A", 3.0, 0.0), ("B", 4.0, 1.0), ("C", 3.0, 0.0))
    jobs = (TrainingJob(name, (Shard(0.0, seconds),), 1, arrival_s=at_s) for name, seconds, at_s in units)
    return workload(*jobs), devices(2)


def two_in_turn() -> tuple[Workload, Cluster]:
    """Two jobs of one shard and two mini-batches on one device that holds one of them, a block of 64 s a copy.

    Each job after the other (load 64, 10 + 10, store 64; the next load must wait for that store) takes
    64 + 20 + 64 + 64 + 20 + 64 = 296; in turn it would take two switches more.
    """
    jobs = (TrainingJob(name, (Shard(0.0, 10.0, parameter_bytes=BLOCK),), 2) for name in "AB")
    return workload(*jobs), devices(1, blocks=1, link=BYTE_A_SECOND)


class CurveCosts(StatedCosts):
    """Stated costs, but for copies: on lines between points of bytes and seconds, as in a profile."""

    def __init__(self, jobs: Workload, cluster: Cluster, points: Sequence[tuple[int, float]]) -> None:
        super().__init__(jobs, cluster)
        self._points = sorted(points)

    def copy_s(self, nbytes: int, device: int, direction: Direction) -> float:
        return _interpolate(self._points, nbytes)

    def copy_sizes(self, device: int, direction: Direction) -> list[int]:
        return [size for size, _ in self._points]


@st.composite
def curves(draw: st.DrawFn) -> list[tuple[int, float]]:
    """Draw measured copies: any size, any seconds, so that parts may be quicker than wholes."""
    seconds = draw(st.dictionaries(st.integers(1, 16), st.integers(1, 16), min_size=1, max_size=5))
    return [(size * BLOCK // 2, eighths / 8) for size, eighths in seconds.items()]
