"""What orchestrating took of a run, from its timeline alone."""

from __future__ import annotations

import pytest

from experiments.orchestration import idle_while_ready_s, orchestration_fraction
from hydrasim.timeline import Span, Timeline


def compute(number: int, start_s: float, end_s: float, device: int = 0, **fields: object) -> Span:
    return Span(number, "compute", device, "compute", f"A/F0#{number}", start_s, end_s, **fields)


def test_a_device_that_waits_for_a_copy_or_for_nothing_to_do_costs_nothing():
    load = Span(0, "load", 0, "h2d", "A/F0#0", 0.0, 2.0)
    spans = (load, compute(1, 2.0, 3.0, after=(0,)), compute(2, 7.0, 8.0, cause=3), compute(3, 3.0, 7.0, device=1))
    assert idle_while_ready_s(Timeline(spans, {"num_devices": 2}))[0] == 0.0


def test_what_passes_between_a_cause_and_its_unit_counts_for_the_device():
    spans = (compute(0, 0.25, 1.0), compute(1, 1.5, 2.0, cause=0), compute(2, 2.0, 4.0, cause=0))
    assert idle_while_ready_s(Timeline(spans, {"num_devices": 2})) == [0.75, 0.0]


def test_the_orchestrators_own_seconds_come_on_top():
    timeline = Timeline((compute(0, 0.2, 2.0),), {"num_devices": 1, "core_s": {"orchestrator": 0.1}})
    assert orchestration_fraction(timeline) == pytest.approx(0.15)
