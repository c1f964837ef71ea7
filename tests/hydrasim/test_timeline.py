"""Timelines: their numbers and their file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hydrasim import Timeline, simulate
from hydrasim.errors import TimelineError
from hydrasim.timeline import Span
from tests.worlds import BYTE_A_SECOND, devices, fig6, heavy, workload


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


@pytest.mark.parametrize("effects", ["theory", "transfers"])
def test_a_timeline_survives_its_file(tmp_path: Path, effects: str):
    timeline = simulate(fig6(), devices(2, link=BYTE_A_SECOND), "sharded-lrtf", effects=effects)
    path = tmp_path / "run.jsonl"
    timeline.write(path)
    assert Timeline.read(path) == timeline
    assert Timeline.read(path).to_lines() == timeline.to_lines()


def test_a_span_that_ends_at_zero_survives_its_file(tmp_path: Path):
    # links are free by default, so a load at time 0 also ends there
    timeline = simulate(workload(heavy("A")), devices(1), "fifo")
    assert any(span.kind == "load" and span.end_s == 0.0 for span in timeline.spans)
    timeline.write(tmp_path / "run.jsonl")
    assert Timeline.read(tmp_path / "run.jsonl") == timeline


def lines_of(text: str) -> list[str]:
    return text.splitlines()


def changed(line: str, **fields: object) -> str:
    kept = {key: value for key, value in (json.loads(line) | fields).items() if value is not None}
    return json.dumps(kept)


@pytest.mark.parametrize(
    ("header", "span_fields", "message"),
    [
        ({"version": 2}, {}, "line 1: version: Input should be 1"),
        ({"version": None}, {}, "line 1: version: Field required"),
        ({"num_devices": "many"}, {}, "line 1: num_devices: "),
        ({"num_devices": -1}, {}, "line 1: num_devices: "),
        ({}, {"start_s": None}, "line 2: start_s: Field required"),
        ({}, {"end_s": "late"}, "line 2: end_s: Input should be a valid number"),
        ({}, {"end_s": float("nan")}, "line 2: end_s: "),
        ({}, {"kind": "sleep"}, "line 2: kind: "),
        ({}, {"device": -2}, "line 2: device: "),
        ({}, {"device": 2}, "line 2: device: .*2 devices"),
        ({}, {"device": -1}, "line 2: device: "),
        ({}, {"unit": "A/Z0#0"}, "line 2: unit: .*'A/Z0#0' is not a unit"),
        ({}, {"colour": "red"}, "line 2: colour: Extra inputs are not permitted"),
    ],
)
def test_a_malformed_timeline_is_refused_with_line_and_field(
    tmp_path: Path, header: dict[str, object], span_fields: dict[str, object], message: str
):
    first, second, *_ = lines_of(TWO.to_lines())
    path = tmp_path / "run.jsonl"
    path.write_text(changed(first, **header) + "\n" + changed(second, **span_fields) + "\n")
    with pytest.raises(TimelineError, match=message):
        Timeline.read(path)


def test_a_truncated_timeline_is_refused_wherever_it_breaks_off(tmp_path: Path):
    text = TWO.to_lines()
    path = tmp_path / "run.jsonl"
    whole_lines = {len(text), len(text) - 1, *(i + d for i, c in enumerate(text) if c == "\n" for d in (0, 1))}
    for length in sorted(set(range(len(text))) - whole_lines):
        path.write_text(text[:length])
        with pytest.raises(TimelineError, match=r"run\.jsonl"):
            Timeline.read(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"null", b"[1]", b"{}", b"7\n"])
def test_what_is_no_timeline_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(TimelineError, match=r"run\.jsonl"):
        Timeline.read(path)


def test_a_missing_timeline_is_refused(tmp_path: Path):
    with pytest.raises(TimelineError, match=r"cannot read .*run\.jsonl: No such file"):
        Timeline.read(tmp_path / "run.jsonl")
