"""A run's tables, on a timeline drawn by hand, where every cell is known."""

from __future__ import annotations

from hydrasim import Timeline, simulate
from hydrasim.causes import CAUSES
from hydrasim.tables import DeviceRow, JobRow, device_rows, devices_frame, job_rows, jobs_frame
from hydrasim.timeline import Span
from tests.worlds import BYTE_A_SECOND, devices, heavy, workload

# compute:0  . A A .       A loads 64 bytes, computes and stores 32
# h2d:0      L . . .
# d2h:0      . . . S
# compute:1  B . . B       B arrives at 0, computes twice, and waits for what device 0 sends in between
# peer:0     . . P .
TIMELINE = Timeline(
    (
        Span(0, "load", 0, "h2d", "A/F0#0", 0.0, 1.0, "A/w0", 64),
        Span(1, "compute", 1, "compute", "B/F0#0", 0.0, 1.0, live_bytes=16),
        Span(2, "compute", 0, "compute", "A/F0#0", 1.0, 3.0, after=(0,), live_bytes=128),
        Span(3, "send", 0, "peer", "B/L0#0", 2.0, 3.0, "", 8, peer=1),
        Span(4, "store", 0, "d2h", "A/F0#0", 3.0, 4.0, "A/w0", 32, after=(2,)),
        Span(5, "compute", 1, "compute", "B/L0#0", 3.0, 4.0, after=(3,), live_bytes=8),
    ),
    {"num_devices": 2},
)
IDLE = dict.fromkeys((cause for cause in CAUSES if cause != "compute"), 0.0)


def test_a_row_a_job():
    assert job_rows(TIMELINE, {"A": 0.5}) == [
        JobRow("A", 1, 2.0, 96, wait_s=1.5, first_start_s=1.0, end_s=4.0, turnaround_s=3.5),
        JobRow("B", 2, 2.0, 0, wait_s=2.0, first_start_s=0.0, end_s=4.0, turnaround_s=4.0),
    ]


def test_units_side_by_side_are_waited_for_once():
    spans = (
        Span(0, "compute", 0, "compute", "A/F0#0", 0.0, 2.0), Span(1, "compute", 1, "compute", "A/F0#0", 1.0, 3.0),
        Span(2, "store", 1, "d2h", "A/F0#0", 3.0, 4.0)
    )  # fmt: skip
    (row,) = job_rows(Timeline(spans))
    assert (row.compute_s, row.wait_s, row.turnaround_s) == (4.0, 1.0, 4.0)


def test_a_row_a_device():
    assert device_rows(TIMELINE) == [
        DeviceRow(0, 1, 0.5, 1.0, 0.5, 128, 64, 32, 8, IDLE | {"h2d": 1.0, "d2h": 1.0}),
        DeviceRow(1, 2, 0.5, 0.5, 0.5, 16, 0, 0, 0, IDLE | {"peer": 2.0}),
    ]


def test_the_header_knows_the_peak_better():
    stated = Timeline(TIMELINE.spans, TIMELINE.header | {"peak_bytes": [512, 256]})
    assert [row.peak_bytes for row in device_rows(stated)] == [512, 256]


def test_a_job_that_only_fetched_has_a_row():
    (row,) = job_rows(Timeline((Span(0, "fetch", -1, "host", "A/F0#0", 0.0, 2.0),)))
    assert row == JobRow("A", 0, 0, 0, wait_s=2.0, first_start_s=2.0, end_s=2.0, turnaround_s=2.0)


def test_frames_have_the_rows_and_a_column_a_cause():
    jobs, found = jobs_frame(TIMELINE), devices_frame(TIMELINE)
    assert list(jobs.columns) == list(JobRow.__dataclass_fields__)
    assert list(jobs["job"]) == ["A", "B"]
    assert list(found["compute_busy_fraction"]) == [0.5, 0.5]
    assert list(found["idle_peer_s"]) == [0.0, 2.0]
    assert "idle_s" not in found.columns
    assert list(jobs_frame(Timeline(())).columns) == list(jobs.columns)


def test_tables_of_a_run_agree_with_its_totals():
    jobs = workload(heavy("A", minibatches=2, blocks=2), heavy("B"))
    timeline = simulate(jobs, devices(2, link=BYTE_A_SECOND), "fifo")
    rows, found = job_rows(timeline), device_rows(timeline)
    assert sum(row.moved_bytes for row in rows) == timeline.moved_bytes > 0
    assert sum(row.h2d_bytes + row.d2h_bytes for row in found) == timeline.moved_bytes
    assert sum(row.num_units for row in rows) == sum(row.num_units for row in found) == jobs.num_units
    for row in found:
        assert sum(row.idle_s.values()) == timeline.makespan_s * (1 - row.compute_busy_fraction)
