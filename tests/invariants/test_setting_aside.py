"""What holds in every world of which a job fails, whether devices do or not: the others are trained on right data."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from hydrasim import Workload
from tests.invariants.strategies import World
from tests.invariants.test_recovery import LossyMachine, check_fetches, check_lanes, check_units, failing_worlds, run


@given(failing_worlds(), st.booleans(), st.integers(0, 7), st.floats(0, 1.1))
def test_the_others_are_trained_on_the_newest_data(
    drawn: tuple[World, list[tuple[int, float, float]]], devices_fail: bool, which: int, fraction: float
):
    world, failures = drawn
    jobs = world.workload.jobs
    assume(len(jobs) > 1)
    failing = jobs[which % len(jobs)].name
    timeline, commands, losses = run(world, failures if devices_fail else [], (failing, fraction))
    others = Workload(tuple(job for job in jobs if job.name != failing))
    left = replace(world, workload=others)
    check_lanes(timeline, commands)
    check_units(left, timeline)
    check_fetches(left, commands, timeline)
    machine = LossyMachine(world, commands, timeline, losses)
    machine.run()
    machine.forget(failing)
    machine.check_state_is_newest()
    machine.check_torn()
