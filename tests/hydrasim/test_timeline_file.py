"""Timelines survive their files, in both formats, and what is no timeline is refused in a sentence."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import product
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hydrasim import Timeline, simulate
from hydrasim.command import Kind, Lane
from hydrasim.errors import HydraError, TimelineError
from hydrasim.timeline import Span
from tests.worlds import BYTE_A_SECOND, devices, fig6, heavy, workload

# gpu0  a a . .
# gpu1  . b b b
TWO = Timeline(
    (
        Span(0, "compute", 0, "compute", "A/F0#0", 0.0, 2.0),
        Span(1, "compute", 1, "compute", "A/F0#0", 1.0, 4.0),
    ),
    {"num_devices": 2},
)
# every kind, every field, and a header with values of every JSON type
FULL = Timeline(
    (
        Span(0, "fetch", -1, "host", "A/F0#0", 0.0, 0.125),
        Span(1, "read", -1, "disk", "A/F0#0", 0.125, 0.1, "A/w0", 64, (0,), (), 1e-9, 0),
        Span(2, "load", 0, "h2d", "A/F0#0", 0.1 + 0.2, 0.5, "A/w0", (1 << 63) - 1, (0, 1)),
        Span(3, "compute", 0, "compute", "A/F0#0", 0.5, 1.5, "", 0, (2,), ("A/F0#0", "B/F0#0"), 0.0, -1, 4096),
        Span(4, "send", 0, "peer", "A/F0#0", 1.5, 2.0, "A/x1#0", 8, (3,), peer=1),
        Span(5, "gather", 1, "peer", "A/F0#0", 1.5, 2.0, "", 8),
        Span(6, "store", 1, "d2h", "A/F0#0", 2.0, 2.0),
        Span(7, "update", 1, "host", "A/U0#0", 2.0, 3.0),
        Span(8, "write", -1, "disk", "A/U0#0", 3.0, 4.0),
    ),
    {"num_devices": 2, "label": "simulated", "peak_bytes": [1, 2], "seed": 0, "note": None, "é": {"x": 1.5}},
)
SUFFIXES = ["jsonl", "jsonl.gz", "parquet"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("effects", ["theory", "transfers"])
def test_a_timeline_survives_its_file(tmp_path: Path, effects: str, suffix: str):
    timeline = simulate(fig6(), devices(2, link=BYTE_A_SECOND), "sharded-lrtf", effects=effects)
    path = tmp_path / f"run.{suffix}"
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
        ({}, {"peer": 2}, "line 2: peer: .*2 devices"),
        ({}, {"live_bytes": -1}, "line 2: live_bytes: "),
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


@pytest.mark.parametrize("timeline", [FULL, Timeline(()), Timeline((), {"num_devices": 3})])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_field_survives(tmp_path: Path, suffix: str, timeline: Timeline):
    path = tmp_path / f"run.{suffix}"
    timeline.write(path)
    assert Timeline.read(path) == timeline
    assert Timeline.read(path).to_lines() == timeline.to_lines()


def test_equal_timelines_give_equal_files(tmp_path: Path):
    for suffix in SUFFIXES:
        FULL.write(tmp_path / f"a.{suffix}")
        FULL.write(tmp_path / f"b.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_pandas_opens_parquet_with_a_column_a_field(tmp_path: Path):
    FULL.write(tmp_path / "run.parquet")
    frame = pd.read_parquet(tmp_path / "run.parquet")
    assert list(frame.columns) == list(Span.__dataclass_fields__)
    assert list(frame["end_s"]) == [span.end_s for span in FULL.spans]
    assert list(frame["after"][2]) == [0, 1]
    assert list(frame["eligible"][3]) == ["A/F0#0", "B/F0#0"]


def parquet(path: Path, **columns: pa.Array | None) -> Path:
    """Write TWO, but with other columns, None for none; return the path."""
    TWO.write(path)
    table = pq.read_table(path)
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, values)
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"start_s": None}, "column start_s is missing; it must be double"),
        ({"end_s": pa.array(["late", "later"])}, "column end_s is string; it must be double"),
        ({"colour": pa.array([1, 2])}, "column colour is int64; it must be left out"),
        ({"start_s": pa.array([0.0, None])}, "row 1: start_s: Input should be a valid number"),
        ({"end_s": pa.array([float("nan"), 1.0])}, "row 0: end_s: Input should be a finite number"),
        ({"kind": pa.array(["compute", "sleep"])}, "row 1: kind: "),
        ({"unit": pa.array(["A/F0#0", "A/Z0#0"])}, "row 1: unit: .*'A/Z0#0' is not a unit"),
        ({"device": pa.array([0, 2])}, "row 1: device: a compute on device 2; there are 2 devices"),
        ({"peer": pa.array([0, 2])}, "row 1: peer: a compute on device 2; there are 2 devices"),
        ({"device": pa.array([-1, 0])}, "row 0: device: a compute on device -1"),
        ({"after": pa.array([[0, None], []], pa.list_(pa.int64()))}, "row 0: after.1: "),
    ],
)
def test_malformed_parquet_is_refused_with_row_and_field(tmp_path: Path, columns: dict[str, pa.Array], message: str):
    with pytest.raises(TimelineError, match=rf"run\.parquet.* {message}"):
        Timeline.read(parquet(tmp_path / "run.parquet", **columns))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "has no timeline header; write it with `Timeline.write`"),
        (b'{"version": 2}', "header: version: Input should be 1"),
        (b"{", "header: .*Invalid JSON"),
        (b"\xff", "header: .*Invalid JSON"),
    ],
)
def test_parquet_without_our_header_is_refused(tmp_path: Path, header: bytes | None, message: str):
    path = parquet(tmp_path / "run.parquet")
    metadata = {} if header is None else {b"hydrasim.timeline": header}
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    with pytest.raises(TimelineError, match=message):
        Timeline.read(path)


def test_damaged_parquet_is_refused_or_read(tmp_path: Path):
    # Some damage to a column's metadata once ended the process, when that metadata was asked for.
    path = tmp_path / "run.parquet"
    TWO.write(path)
    whole = path.read_bytes()
    for position in range(0, len(whole), 17):
        for damaged in (whole[:position], _flipped(whole, position)):
            path.write_bytes(damaged)
            with suppress(TimelineError):
                Timeline.read(path)


def _flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ (1 << position % 8)]) + data[position + 1 :]


def test_parquet_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    TWO.write(tmp_path / "run.parquet")
    monkeypatch.setattr("hydrasim.timeline_file.MAX_SPANS", 1)
    with pytest.raises(TimelineError, match="unpacks to more than 256 MiB"):
        Timeline.read(tmp_path / "run.parquet")


def test_what_is_no_parquet_is_refused(tmp_path: Path):
    path = tmp_path / "run.parquet"
    with pytest.raises(TimelineError, match=r"cannot read .*run\.parquet: No such file"):
        Timeline.read(path)
    path.symlink_to("/dev/zero")
    with pytest.raises(TimelineError, match="it is no regular file"):
        Timeline.read(path)
    path.unlink()
    path.write_text(TWO.to_lines())
    with pytest.raises(TimelineError, match=r"cannot read .*run\.parquet: Parquet magic bytes not found"):
        Timeline.read(path)
    with pytest.raises(HydraError, match="cannot write"):
        TWO.write(tmp_path / "missing" / "run.parquet")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_and_lane_can_be_read_back(tmp_path: Path, suffix: str):
    pairs = [(kind.value, 0, lane.value) for kind, lane in product(Kind, Lane)] + [("update", -1, "update")]
    spans = tuple(Span(number, *pair, "A/F0#0", 0.0, 1.0) for number, pair in enumerate(pairs))
    path = tmp_path / f"run.{suffix}"
    Timeline(spans, {"num_devices": 1}).write(path)
    assert Timeline.read(path).spans == spans
