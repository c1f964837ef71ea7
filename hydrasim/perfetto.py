"""Timelines as a Chrome trace, to be opened in Perfetto (ui.perfetto.dev) or chrome://tracing.

One process for each device of each timeline, and one for its host; in it one thread a lane, and counters. Several
timelines, such as a simulated and a measured one, lie under each other on one clock. The counters are:

- of a device, "memory in use": what live blocks (state, boundaries, spilled activations) hold of its arena,
  read whenever a unit begins; the unit's own activations and temporaries come on top.
- of a device, "h2d rate", "d2h rate" and "peer rate", as sender; of the host, "host link rate", which is that of
  all copies between it and devices, and "disk rate": bytes per second, each copy spread evenly over its span. A
  copy that takes no time, over a link without a bandwidth, has no rate and is left out.
"""

from __future__ import annotations

import json
from itertools import groupby
from math import fsum
from typing import TYPE_CHECKING, Any

from hydrasim.command import HOST, Kind, Lane
from hydrasim.disk import write_text
from hydrasim.explain import WaitGraph, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from hydrasim.timeline import Span, Timeline

Event = dict[str, Any]

MEMORY = "memory in use"

_MICROSECONDS = 1e6
_SHORTEST_S = 1e-9  # times are rounded to it
# Lanes of the host, a job each.
_OF_JOBS = {(kind.value, HOST): "loader" for kind in (Kind.FETCH, Kind.SAVE, Kind.RESTORE)}
_OF_JOBS[Kind.UPDATE.value, HOST] = "updates"
_LANES = [Lane.COMPUTE.value, Lane.H2D.value, Lane.D2H.value]
_DEVICE_RATES = {
    "h2d rate": {Kind.LOAD.value},
    "d2h rate": {Kind.STORE.value},
    "peer rate": {Kind.SEND.value, Kind.GATHER.value},
}
_HOST_RATES = {
    "host link rate": {Kind.LOAD.value, Kind.STORE.value},
    "disk rate": {Kind.READ.value, Kind.WRITE.value},
}


def trace(timelines: Sequence[tuple[str, Timeline]]) -> dict[str, Any]:
    """Return named timelines as one trace object in Chrome's JSON format.

    Source: the Trace Event Format; X is a complete event, C a counter of a process, M names a process or a
    thread, times are in microseconds. All carry dur, as 0 where it says nothing, so that every event has the
    same fields.
    """
    events: list[Event] = []
    num_processes = num_threads = 0  # both numbered from 1: to Perfetto, 0 is the idle thread
    for name, timeline in timelines:
        graph = WaitGraph(timeline)
        for device in (*range(timeline.num_devices), HOST):
            lanes = _lanes(timeline, device)
            counters = [*_counters(timeline, device, num_processes + 1)]
            if not lanes and not counters:
                continue
            num_processes += 1
            title = f"{name}: {'host' if device == HOST else f'device {device}'}"
            events += _metadata("process", num_processes, 0, title, num_processes)
            for position, (lane, spans) in enumerate(lanes.items()):
                num_threads += 1
                events += _metadata("thread", num_processes, num_threads, lane, position)
                events += [_complete(span, num_processes, num_threads, graph) for span in spans]
            events += counters
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write(path: Path, timelines: Sequence[tuple[str, Timeline]]) -> None:
    """Write named timelines as a trace file.

    Raises:
        HydraError: the file cannot be written.
    """
    write_text(path, json.dumps(trace(timelines), allow_nan=False) + "\n")


def counters(timeline: Timeline, device: int) -> dict[str, list[tuple[float, float]]]:
    """Return the counters of a device, or of the host, by name: when each changes, in seconds, and to what.

    Memory is in bytes, rates are in bytes per second; counters that would always be 0 are left out.
    """
    spans = timeline.spans if device == HOST else timeline.by_device[device]
    units = sorted((s for s in spans if s.kind == Kind.COMPUTE.value and device != HOST), key=lambda s: s.start_s)
    found: dict[str, list[tuple[float, float]]] = {}
    if any(span.live_bytes for span in units):
        found[MEMORY] = [(span.start_s, span.live_bytes) for span in units]
    for name, kinds in (_HOST_RATES if device == HOST else _DEVICE_RATES).items():
        if points := list(_rates(span for span in spans if span.kind in kinds)):
            found[name] = points
    return found


def _lanes(timeline: Timeline, device: int) -> dict[str, list[Span]]:
    """Return the spans of a device, or of the host, by the name of their lane."""
    lanes: dict[str, list[Span]] = {} if device == HOST else {lane: [] for lane in _LANES}
    for span in timeline.by_device[device]:
        of_job = _OF_JOBS.get((span.kind, span.device))
        lanes.setdefault(f"{of_job} {span.job}" if of_job else span.lane, []).append(span)
    return lanes


def _counters(timeline: Timeline, device: int, process: int) -> Iterator[Event]:
    for name, points in counters(timeline, device).items():
        unit = "bytes" if name == MEMORY else "bytes per s"
        yield from (_counter(name, unit, process, at_s, value) for at_s, value in points)


def _rates(copies: Iterable[Span]) -> Iterator[tuple[float, float]]:
    """Yield when the summed rate of the copies changes, and to how many bytes per second."""
    changes = []
    for span in copies:
        if span.nbytes and span.duration_s >= _SHORTEST_S:
            changes += [(span.start_s, span), (span.end_s, span)]
    under_way: dict[int, float] = {}
    for at_s, group in groupby(sorted(changes, key=lambda change: change[0]), key=lambda change: change[0]):
        for _, span in group:
            if under_way.pop(span.number, None) is None:
                under_way[span.number] = span.nbytes / span.duration_s
        yield at_s, fsum(under_way.values())


def _counter(name: str, unit: str, process: int, at_s: float, value: float) -> Event:
    place = {"ph": "C", "pid": process, "tid": 0, "ts": round(at_s * _MICROSECONDS, 3), "dur": 0}
    return {"name": name, **place, "args": {unit: value}}


def _complete(span: Span, process: int, thread: int, graph: WaitGraph) -> Event:
    # Rounded to nanoseconds before the subtraction, so that spans that touch never overlap.
    start, end = (round(seconds * _MICROSECONDS, 3) for seconds in (span.start_s, span.end_s))
    return {
        "name": span.unit if span.kind == "compute" else f"{span.kind} {span.block or span.unit}",
        "cat": span.kind,
        "ph": "X",
        "pid": process,
        "tid": thread,
        "ts": start,
        "dur": round(end - start, 3),
        "args": {
            "unit": span.unit,
            "bytes": span.nbytes,
            "waited for": ", ".join(map(name_of, graph.followed(span))) or "nothing",
        },
    }


def _metadata(what: str, process: int, thread: int, name: str, position: int) -> list[Event]:
    place = {"ph": "M", "pid": process, "tid": thread, "ts": 0, "dur": 0}
    return [
        {"name": f"{what}_name", **place, "args": {"name": name}},
        {"name": f"{what}_sort_index", **place, "args": {"sort_index": position}},
    ]
