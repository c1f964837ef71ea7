"""The trace is complete: every event has all its fields, and none of them is null."""

import json
from math import isfinite

import pytest

from hydrasim import Cluster, Device, Link, Shard, Timeline, TrainingJob, Workload
from hydrasim.errors import HydraError
from hydrasim.perfetto import trace, write
from hydrasim.planning import make_plan
from hydrasim.timeline import Span

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
        assert event["ph"] in ("X", "M", "C")
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


# h2d:0      L L . .      64 bytes in 2 s; with the store, 32 + 64 bytes a second on the host's link
# d2h:1      . S . .
# peer:1     . . P P
# compute:0  . . C C
# disk       R . . W      the last load takes no time, and has no rate
COPIES = Timeline(
    (
        Span(0, "read", -1, "disk", "A/F0#0", 0.0, 1.0, "A/w0", 8),
        Span(1, "load", 0, "h2d", "A/F0#0", 0.0, 2.0, "A/w0", 64),
        Span(2, "store", 1, "d2h", "A/B0#0", 1.0, 2.0, "A/w0", 64),
        Span(3, "compute", 0, "compute", "A/F0#0", 2.0, 4.0, live_bytes=128),
        Span(4, "send", 1, "peer", "A/B0#0", 2.0, 4.0, "", 32, peer=0),
        Span(5, "write", -1, "disk", "A/B0#0", 3.0, 4.0, "A/w0", 16),
        Span(6, "load", 0, "h2d", "A/F0#0", 4.0, 4.0, "A/x0#0", 64),
        Span(7, "update", 0, "host", "A/U0#0", 4.0, 4.0),
    ),
    {"num_devices": 2},
)


def test_counters_say_memory_and_rates_over_time():
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    events = trace([("simulated", COPIES)])["traceEvents"]
    processes = {e["pid"]: e["args"]["name"].partition(": ")[2] for e in events if e["name"] == "process_name"}
    for event in events:
        if event["ph"] == "C":
            ((unit, value),) = event["args"].items()
            found.setdefault((processes[event["pid"]], f"{event['name']} [{unit}]"), []).append((event["ts"], value))
    second = 1e6
    assert found == {
        ("device 0", "memory in use [bytes]"): [(2 * second, 128)],
        ("device 0", "h2d rate [bytes per s]"): [(0.0, 32.0), (2 * second, 0.0)],
        ("device 1", "d2h rate [bytes per s]"): [(second, 64.0), (2 * second, 0.0)],
        ("device 1", "peer rate [bytes per s]"): [(2 * second, 16.0), (4 * second, 0.0)],
        ("host", "host link rate [bytes per s]"): [(0.0, 32.0), (second, 96.0), (2 * second, 0.0)],
        ("host", "disk rate [bytes per s]"): [(0.0, 8.0), (second, 0.0), (3 * second, 16.0), (4 * second, 0.0)],
    }


def test_counters_are_numbers_that_perfetto_takes(events):
    counters = [event for event in events if event["ph"] == "C"]
    assert {event["name"] for event in counters} == {"memory in use", "h2d rate", "d2h rate", "host link rate"}
    for event in counters:
        assert event["tid"] == 0  # a counter belongs to its process
        for value in event["args"].values():
            assert isinstance(value, int | float)
            assert isfinite(value)
            assert value >= 0


def test_disk_peer_and_host_side_updates_have_threads_of_their_own():
    events = trace([("simulated", COPIES)])["traceEvents"]
    threads = [(e["pid"], e["args"]["name"]) for e in events if e["name"] == "thread_name"]
    assert threads == [
        *((1, lane) for lane in ("compute", "h2d", "d2h", "host")),
        *((2, lane) for lane in ("compute", "h2d", "d2h", "peer")),
        (3, "disk"),
    ]


def test_the_file_is_json(timeline, tmp_path):
    write(tmp_path / "trace.json", [("simulated", timeline)])
    assert json.loads((tmp_path / "trace.json").read_text()) == trace([("simulated", timeline)])
    with pytest.raises(HydraError, match="cannot write"):
        write(tmp_path / "missing" / "trace.json", [("simulated", timeline)])
