"""The least that copies take: by hand on a curve whose best rate is at a part, and never more than any way to cut."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrasim import Cluster, Device, Link
from hydrasim.optimum.copies import LeastCopies
from hydrasim.profile import StatedCosts
from tests.hydrasim.optimum.worlds import CurveCosts
from tests.worlds import BLOCK, devices, heavy, job, workload

POINTS = [(1 * BLOCK, 1.0), (3 * BLOCK, 1.0), (6 * BLOCK, 6.0)]


def least(points: list[tuple[int, float]], blocks: int = 6) -> LeastCopies:
    jobs = workload(heavy("A", blocks=blocks))
    return LeastCopies(jobs, CurveCosts(jobs, devices(), points))


@pytest.mark.parametrize(("blocks", "seconds"), [(6, 2.0), (4, 4 / 3), (3, 1.0), (2, 1.0), (0, 0.0)])
def test_two_quick_parts_beat_a_slow_whole(blocks: int, seconds: float):
    assert least(POINTS).seconds(blocks * BLOCK, 0, "h2d") == seconds


def test_the_best_rate_is_that_of_a_part():
    assert least(POINTS).bytes_per_s(0, "h2d") == 3 * BLOCK
    assert least(POINTS).bytes_per_s(0, "h2d", latency_s=0.5) == 6 * BLOCK
    assert least(POINTS).bytes_per_s(0, "h2d", latency_s=1.0) == math.inf


def test_no_copy_is_larger_than_the_largest_block():
    # one block at a time, 1 s each, however quick three of them would be
    assert least(POINTS, blocks=1).bytes_per_s(0, "h2d") == BLOCK


def test_more_bytes_may_take_less():
    assert least([(1 * BLOCK, 3.0), (2 * BLOCK, 1.0)]).seconds(BLOCK, 0, "h2d") == 1.0


def test_latency_counts_where_links_are_as_stated():
    jobs, link = workload(heavy("A", blocks=2)), Link(64.0, latency_s=4.0)
    cluster = Cluster.of(1, Device(2 * BLOCK, h2d=link, d2h=link))
    copies = LeastCopies(jobs, StatedCosts(jobs, cluster))
    assert copies.seconds(2 * BLOCK, 0, "h2d") == 4.0 + 2.0
    assert copies.bytes_per_s(0, "h2d") == 2 * BLOCK / 6.0
    assert copies.bytes_per_s(0, "h2d", latency_s=4.0) == 64.0


def test_jobs_without_bytes_copy_none():
    jobs = workload(job())
    assert LeastCopies(jobs, StatedCosts(jobs, devices())).bytes_per_s(0, "h2d") == math.inf


@given(
    points=st.dictionaries(st.integers(1, 40), st.integers(0, 40), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 39), max_size=4),
)
def test_no_way_to_cut_a_block_is_quicker(points: dict[int, int], cuts: list[int]):
    copies = least([(size * BLOCK, float(seconds)) for size, seconds in points.items()], blocks=40)
    jobs = workload(heavy("A", blocks=40))
    costs = CurveCosts(jobs, devices(), [(size * BLOCK, float(seconds)) for size, seconds in points.items()])
    edges = sorted({0, *cuts, 40})
    parts = [(high - low) * BLOCK for low, high in pairwise(edges)]
    taken_s = sum(costs.copy_s(nbytes, 0, "h2d") for nbytes in parts)
    assert copies.seconds(40 * BLOCK, 0, "h2d") <= taken_s + 1e-9
    assert taken_s * copies.bytes_per_s(0, "h2d") >= 40 * BLOCK * (1 - 1e-9) or taken_s == 0.0
