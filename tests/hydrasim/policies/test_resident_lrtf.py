"""Sharded-LRTF that counts what a move costs."""

from __future__ import annotations

import pytest

from hydrasim import Mechanism, simulate
from hydrasim.policies.resident_lrtf import ResidentLRTF
from tests.worlds import BYTE_A_SECOND, devices, heavy, units, workload


@pytest.mark.parametrize(
    ("stickiness", "order"), [(0.0, "ABABABABABAB"), (2.0, "AAABBBBBAAAB"), (100.0, "AAAAAABBBBBB")]
)
def test_it_leaves_a_resident_job_only_when_another_is_behind_by_the_cost_of_the_move(stickiness: float, order: str):
    # One block, so one job is resident at a time; a unit and a load take 64 s. Counted in units, at 2:
    # A 6 5 4 3   B may lead by its move, 2: 6 - 2 > 3, so B. Ties go to A, the first.
    # B 6 5 4 3 2 1   and A 3 - 2 >= 1, so A
    jobs = workload(heavy("A", minibatches=6), heavy("B", minibatches=6))
    timeline = simulate(
        jobs, devices(1, 1, BYTE_A_SECOND), ResidentLRTF(stickiness), mechanism=Mechanism(prefetch=False)
    )
    assert "".join(unit[0] for unit in units(timeline)) == order


def test_when_nothing_needs_to_move_it_is_sharded_lrtf():
    jobs = workload(heavy("A", minibatches=2), heavy("B", minibatches=3))
    resident, exact = (simulate(jobs, devices(1), name, effects="theory") for name in ("resident-lrtf", "sharded-lrtf"))
    assert units(resident) == units(exact)
