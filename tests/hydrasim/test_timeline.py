"""Timelines: their spans and the numbers over them."""

from __future__ import annotations

import json

from hydrasim import Timeline, simulate
from hydrasim.command import Command, Finished, Kind, Lane
from hydrasim.timeline import Span
from hydrasim.workload import ShardUnit
from tests.worlds import devices, fig6, heavy, workload


def span(number: int, device: int, start_s: float, end_s: float, kind: str = "compute", nbytes: int = 0) -> Span:
    return Span(number, kind, device, kind if kind == "compute" else "h2d", "A/F0#0", start_s, end_s, nbytes=nbytes)


# gpu0  a a . .
# gpu1  . b b b
TWO = Timeline((span(0, 0, 0.0, 2.0), span(1, 1, 1.0, 4.0)), {"num_devices": 2})


def test_makespan_and_utilization():
    assert TWO.makespan_s == 4.0
    assert (TWO.utilization(0), TWO.utilization(1), TWO.utilization()) == (0.5, 0.75, 0.625)


def test_an_idle_device_counts():
    assert Timeline(TWO.spans, {"num_devices": 4}).utilization() == 0.3125
    assert Timeline(TWO.spans, {"num_devices": 4}).utilization(3) == 0.0


def test_without_a_header_the_spans_tell_the_number_of_devices():
    assert Timeline(TWO.spans).num_devices == 2


def test_dispatch_is_from_the_end_that_caused_a_span_to_its_issue():
    spans = (
        Span(0, "compute", 0, "compute", "A/F0#0", 0.0, 2.0),
        Span(1, "compute", 0, "compute", "A/F0#1", 3.0, 4.0, issued_s=2.5, cause=0),
        Span(2, "compute", 0, "compute", "A/F0#2", 4.0, 5.0, issued_s=1.0, cause=7),
    )
    assert Timeline(spans).dispatch_s() == {1: 0.5}


def test_a_simulated_span_names_the_end_that_caused_it():
    timeline = simulate(fig6(), devices(2), "sharded-lrtf", effects="theory")
    ends = {span.number: span.end_s for span in timeline.spans}
    assert [span.cause for span in timeline.spans if span.start_s == 0.0] == [-1, -1]
    assert all(span.issued_s == ends[span.cause] for span in timeline.spans if span.cause >= 0)


def test_an_empty_timeline_has_no_length():
    assert (Timeline(()).makespan_s, Timeline(()).utilization()) == (0.0, 0.0)


def test_moved_bytes_are_those_of_copies_in_both_directions():
    timeline = simulate(workload(heavy("A", blocks=2)), devices(1), "fifo")
    assert timeline.moved_bytes == 128 + 128  # loaded once, stored once


def test_the_frame_has_a_row_a_span():
    frame = TWO.to_frame()
    assert list(frame.columns) == list(Span.__dataclass_fields__)
    assert list(frame["end_s"]) == [2.0, 4.0]


def test_bytes_are_counted_by_where_they_move():
    kinds = {"load": 1, "store": 2, "send": 4, "gather": 8, "read": 16, "write": 32, "update": 64, "fetch": 128}
    spans = tuple(Span(i, kind, 0, "host", "A/F0#0", 0.0, 1.0, nbytes=n) for i, (kind, n) in enumerate(kinds.items()))
    timeline = Timeline(spans, {"num_devices": 1})
    assert (timeline.moved_bytes, timeline.peer_bytes, timeline.disk_bytes) == (3, 12, 48)


def test_a_span_keeps_what_its_command_says():
    unit = ShardUnit.parse("A/F0#0")
    command = Command(7, Kind.SEND, 1, Lane.PEER, unit, (3,), nbytes=64, live_bytes=128, peer=2)
    span = Span.of(Finished(command, 1.0, 2.0, 0.5), cause=3)
    assert span == Span(7, "send", 1, "peer", "A/F0#0", 1.0, 2.0, "", 64, (3,), (), 0.5, 3, 128, 2)


def test_a_compute_says_how_full_its_arena_is():
    timeline = simulate(workload(heavy("A", blocks=2)), devices(1), "fifo")
    assert [span.live_bytes for span in timeline.spans if span.kind == "compute"] == [128]


def test_lines_leave_out_what_is_as_by_default():
    assert json.loads(TWO.to_lines().splitlines()[1]).keys() == {
        "number", "kind", "device", "lane", "unit", "start_s", "end_s"
    }  # fmt: skip
