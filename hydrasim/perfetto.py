"""Timelines as a Chrome trace, to be opened in Perfetto (ui.perfetto.dev) or chrome://tracing.

One process for each device of each timeline, and one for its host; in it one thread a lane. Several
timelines, such as a simulated and a measured one, lie under each other on one clock.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hydrasim.command import HOST, Lane
from hydrasim.disk import write_text
from hydrasim.explain import WaitGraph, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hydrasim.timeline import Span, Timeline

_MICROSECONDS = 1e6
_LANES = [Lane.COMPUTE.value, Lane.H2D.value, Lane.D2H.value]


def trace(timelines: Sequence[tuple[str, Timeline]]) -> dict[str, Any]:
    """Return named timelines as one trace object in Chrome's JSON format.

    Source: the Trace Event Format; X is a complete event, M names a process or a thread, times are in
    microseconds. Metadata carries ts and dur too, as 0, so that every event has the same fields.
    """
    events: list[dict[str, Any]] = []
    num_processes = num_threads = 0  # both numbered from 1: to Perfetto, 0 is the idle thread
    for name, timeline in timelines:
        graph = WaitGraph(timeline)
        for device in (*range(timeline.num_devices), HOST):
            lanes: dict[str, list[Span]] = {} if device == HOST else {lane: [] for lane in _LANES}
            for span in timeline.spans:
                if span.device == device:
                    lanes.setdefault(f"loader {span.job}" if device == HOST else span.lane, []).append(span)
            if not lanes:
                continue
            num_processes += 1
            title = f"{name}: {'host' if device == HOST else f'device {device}'}"
            events += _metadata("process", num_processes, 0, title, num_processes)
            for position, (lane, spans) in enumerate(lanes.items()):
                num_threads += 1
                events += _metadata("thread", num_processes, num_threads, lane, position)
                events += [_complete(span, num_processes, num_threads, graph) for span in spans]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write(path: Path, timelines: Sequence[tuple[str, Timeline]]) -> None:
    """Write named timelines as a trace file.

    Raises:
        HydraError: the file cannot be written.
    """
    write_text(path, json.dumps(trace(timelines)) + "\n")


def _complete(span: Span, process: int, thread: int, graph: WaitGraph) -> dict[str, Any]:
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


def _metadata(what: str, process: int, thread: int, name: str, position: int) -> list[dict[str, Any]]:
    place = {"ph": "M", "pid": process, "tid": thread, "ts": 0, "dur": 0}
    return [
        {"name": f"{what}_name", **place, "args": {"name": name}},
        {"name": f"{what}_sort_index", **place, "args": {"sort_index": position}},
    ]
