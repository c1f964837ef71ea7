"""Three definitions of utilization, on timelines where they differ."""

from __future__ import annotations

import pytest

from hydrasim import Timeline
from hydrasim.timeline import Span
from hydrasim.utilization import UTILIZATION_KINDS, Interval, busy_intervals, total_s


def span(number: int, kind: str, start_s: float, end_s: float, device: int = 0) -> Span:
    lanes = {"compute": "compute", "load": "h2d", "store": "d2h", "send": "peer", "gather": "peer", "update": "host"}
    return Span(number, kind, device, lanes[kind], "A/F0#0", start_s, end_s)


def of(*spans: Span, num_devices: int = 1, device: int | None = None) -> list[float]:
    timeline = Timeline(spans, {"num_devices": num_devices})
    return [timeline.utilization(device, kind) for kind in UTILIZATION_KINDS]


def test_the_three_kinds_differ_where_copies_and_collectives_run():
    # compute  C C . . . . . .
    # h2d      . L L . . . . .      beside the computation for a second
    # peer     . . . . G G . S      a gather is a kernel, a send is none
    spans = (
        span(0, "compute", 0.0, 2.0), span(1, "load", 1.0, 3.0), span(2, "gather", 4.0, 6.0), span(3, "send", 7.0, 8.0)
    )  # fmt: skip
    assert of(*spans) == [2 / 8, 6 / 8, 4 / 8]


@pytest.mark.parametrize(("kind", "expected"), [("load", 0.0), ("store", 0.0), ("update", 0.0), ("gather", 1.0)])
def test_to_nvidia_smi_copies_are_idle_and_collectives_are_busy(kind: str, expected: float):
    assert of(span(0, kind, 0.0, 4.0)) == [0.0, 1.0, expected]


def test_nvidia_smi_sees_only_the_last_sixth_of_every_second():
    # busy in the first half of every second: compute-busy one half, yet every sample says idle
    busy_early = [span(number, "compute", number, number + 0.5) for number in range(4)]
    assert of(*busy_early, span(9, "load", 3.5, 4.0)) == [0.5, 0.625, 0.0]
    # busy in the last quarter: a quarter, yet every sample says fully busy
    busy_late = [span(number, "compute", number + 0.75, number + 1.0) for number in range(4)]
    assert of(*busy_late) == [0.25, 0.25, 1.0]
    # a sample from 5/6 to 1 s of which 1/8 s is busy: three quarters of it
    assert of(span(0, "compute", 0.875, 1.0)) == [0.125, 0.125, 0.75]
    assert of(span(0, "compute", 0.0, 0.875), span(1, "load", 0.875, 1.0)) == [0.875, 1.0, 0.25]


def test_what_comes_after_the_last_full_second_is_not_sampled():
    assert of(span(0, "compute", 1.0, 1.5)) == [0.5 / 1.5, 0.5 / 1.5, 0.0]
    assert of(span(0, "compute", 0.0, 1.5)) == [1.0, 1.0, 1.0]


def test_a_run_under_a_second_is_sampled_once_at_its_end():
    assert of(span(0, "compute", 0.0, 0.25), span(1, "load", 0.25, 0.5)) == [0.5, 1.0, 0.0]
    assert of(span(0, "load", 0.0, 0.25), span(1, "compute", 0.25, 0.5)) == [0.5, 1.0, 1.0]
    assert of(span(0, "compute", 0.0, 0.0625), span(1, "load", 0.0625, 0.125)) == [0.5, 1.0, 0.5]


def test_devices_are_averaged_and_the_host_is_none():
    spans = (
        span(0, "compute", 0.0, 2.0), span(1, "gather", 0.0, 4.0, device=1), Span(2, "read", -1, "disk", "A/F0#0", 0, 4)
    )  # fmt: skip
    assert of(*spans, num_devices=2) == [0.25, 0.75, 0.75]
    assert of(*spans, num_devices=2, device=0) == [0.5, 0.5, 0.5]
    assert of(*spans, num_devices=2, device=1) == [0.0, 1.0, 1.0]
    assert of(*spans, num_devices=4) == [0.125, 0.375, 0.375]


def test_nothing_happened():
    assert of() == [0.0, 0.0, 0.0]
    assert of(span(0, "load", 0.0, 0.0)) == [0.0, 0.0, 0.0]


def test_intervals_that_touch_or_overlap_are_one():
    parts = [Interval(3.0, 4.0), Interval(0.0, 1.0), Interval(0.5, 2.0), Interval(2.0, 2.5)]
    assert busy_intervals(parts) == [(0.0, 2.5), (3.0, 4.0)]
    assert total_s(busy_intervals(parts)) == 3.5
