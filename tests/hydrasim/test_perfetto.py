"""The trace is complete: every event has all its fields, and none of them is null."""

import json

import pytest

from hydrasim import Cluster, Device, Link, Shard, Timeline, TrainingJob, Workload
from hydrasim.errors import HydraError
from hydrasim.perfetto import trace, write
from hydrasim.planning import make_plan

SHARD = Shard(1.0, 1.0, parameter_bytes=1024, output_bytes=64)
WORKLOAD = Workload(tuple(TrainingJob(name, (SHARD,) * 2, 2, input_bytes=64) for name in "AB"))
CLUSTER = Cluster.of(2, Device(4096, h2d=Link(1024.0), d2h=Link(1024.0)))


@pytest.fixture(scope="module")
def timeline() -> Timeline:
    return make_plan(WORKLOAD, CLUSTER, "fifo")[1]


@pytest.fixture(scope="module")
def events(timeline) -> list:
    return trace([("simulated", timeline), ("measured", timeline)])["traceEvents"]


def nulls(value) -> bool:
    if isinstance(value, dict):
        return any(nulls(inner) for inner in value.values())
    return value is None


def test_every_event_has_every_field_and_no_null(events):
    for event in events:
        assert {"name", "ph", "pid", "tid", "ts", "dur"} <= set(event)
        assert not nulls(event)
        assert event["name"]
        assert event["ph"] in ("X", "M")
        assert event["ts"] >= 0
        assert event["dur"] >= 0


def test_every_span_becomes_one_event_in_microseconds(events, timeline):
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == 2 * len(timeline.spans)
    (event, _) = (e for e in complete if e["name"] == "A/F0#0")
    (span,) = (s for s in timeline.spans if s.unit == "A/F0#0" and s.kind == "compute")
    assert (event["ts"], event["dur"]) == (span.start_s * 1e6, 1e6)
    assert event["args"]["unit"] == "A/F0#0"
    assert "load A/w0 on h2d:0" in event["args"]["waited for"]
    loads = [e for e in complete if e["name"] == "load A/w0"]
    assert {e["args"]["bytes"] for e in loads} == {1024}


def test_one_process_a_device_and_one_thread_a_lane(events):
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert list(processes.values()) == [
        f"{label}: {place}" for label in ("simulated", "measured") for place in ("device 0", "device 1", "host")
    ]
    threads = [(processes[e["pid"]], e["args"]["name"]) for e in events if e["name"] == "thread_name"]
    assert [name for process, name in threads if process == "measured: device 1"] == ["compute", "h2d", "d2h"]
    assert [name for process, name in threads if process == "simulated: host"] == ["loader A", "loader B"]
    numbers = [e["tid"] for e in events if e["name"] == "thread_name"]
    assert numbers == list(range(1, len(threads) + 1))


def test_events_of_a_thread_never_overlap(events):
    ends: dict[int, float] = {}
    for event in sorted((e for e in events if e["ph"] == "X"), key=lambda e: (e["ts"], e["dur"])):
        assert event["ts"] >= ends.get(event["tid"], 0.0)
        ends[event["tid"]] = event["ts"] + event["dur"]


def test_the_file_is_json(timeline, tmp_path):
    write(tmp_path / "trace.json", [("simulated", timeline)])
    assert json.loads((tmp_path / "trace.json").read_text()) == trace([("simulated", timeline)])
    with pytest.raises(HydraError, match="cannot write"):
        write(tmp_path / "missing" / "trace.json", [("simulated", timeline)])
