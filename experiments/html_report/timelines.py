"""Timelines as the page's script reads them: columns of numbers, names apart, and what each span waited for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hydrasim.command import HOST
from hydrasim.explain import WaitGraph
from hydrasim.gantt import job_colours
from hydrasim.perfetto import MEMORY, counters
from hydrasim.tables import DeviceRow, device_rows
from hydrasim.timeline import Span, Timeline

MAX_SPANS = 20_000  # shown of one timeline; more would make the page slow to load
_DIGITS = 7  # of the makespan that times are rounded to: below what can be zoomed to


@dataclass(frozen=True)
class Run:
    """Timelines to be looked at together, the first above: one plan, simulated and executed, or any others.

    arena_bytes: what each device has for blocks, None where no file says so.
    """

    title: str
    timelines: tuple[tuple[str, Timeline], ...]
    arena_bytes: tuple[int, ...] | None = None
    about: str = ""

    @property
    def cuts(self) -> list[str]:
        """Say of which timelines the page leaves out the end."""
        return [
            f"Of {name} the first {MAX_SPANS:,} of {len(timeline.spans):,} spans are shown."
            for name, timeline in self.timelines
            if len(timeline.spans) > MAX_SPANS
        ]

    @property
    def device_rows(self) -> list[tuple[str, str, DeviceRow]]:
        """Return every timeline's name and label with its table of devices, row by row."""
        return [(name, label(timeline), row) for name, timeline in self.timelines for row in device_rows(timeline)]


def label(timeline: Timeline) -> str:
    """Return whether a timeline was simulated, emulated or measured, as its header says."""
    return str(timeline.header.get("label") or "unlabelled")


def policy(timeline: Timeline) -> str:
    """Return who decided in a timeline."""
    return str(timeline.header.get("planned_by") or timeline.header.get("policy") or "an unnamed policy")


def run_fields(run: Run) -> dict[str, Any]:
    """Return a run as JSON values; times in seconds, sizes in bytes, colours as #rrggbb by job."""
    colours = job_colours(run.timelines)
    return {
        "title": run.title,
        "arenaBytes": run.arena_bytes,
        "jobs": [{"name": job, "colour": _hex(colour)} for job, colour in colours.items()],
        "timelines": [_timeline_fields(name, timeline, list(colours)) for name, timeline in run.timelines],
    }


def _timeline_fields(name: str, timeline: Timeline, jobs: list[str]) -> dict[str, Any]:
    digits = _DIGITS - math.ceil(math.log10(timeline.makespan_s)) if timeline.makespan_s > 0 else 0
    spans = sorted(timeline.spans, key=lambda span: (span.start_s, span.end_s, span.number))[:MAX_SPANS]
    return {
        "name": name,
        "label": label(timeline),
        "policy": policy(timeline),
        "makespan": timeline.makespan_s,
        "busy": timeline.utilization(),
        "numDevices": timeline.num_devices,
        "spans": _columns(spans, WaitGraph(timeline), jobs, digits),
        "counters": [
            {
                "name": counter,
                "device": device,
                "isMemory": counter == MEMORY,
                "at": [round(at_s, digits) for at_s, _ in points],
                "value": [round(value) for _, value in points],
            }
            for device in (*range(timeline.num_devices), HOST)
            for counter, points in counters(timeline, device).items()
        ],
    }


def _columns(spans: Sequence[Span], graph: WaitGraph, jobs: list[str], digits: int) -> dict[str, Any]:
    """Return a column for every field, a value a span, in the order of their starts.

    why: which span each one waited for last, -1 for none; cause: how (data, lane, decision); waited: how long
    its lane stood empty for that.
    """
    order = {span.number: index for index, span in enumerate(spans)}
    job_order = {job: index for index, job in enumerate(jobs)}
    reasons = [next(iter(graph.reasons(span)), None) for span in spans]
    return {
        "kind": _named(span.kind for span in spans),
        "lane": _named(span.lane for span in spans),
        "unit": _named(span.unit for span in spans),
        "block": _named(span.block for span in spans),
        "job": [job_order[span.job] for span in spans],
        "device": [span.device for span in spans],
        "peer": [span.peer for span in spans],
        "start": [round(span.start_s, digits) for span in spans],
        "end": [round(span.end_s, digits) for span in spans],
        "bytes": [span.nbytes for span in spans],
        "why": [order.get(reason.span.number, -1) if reason else -1 for reason in reasons],
        "cause": _named(reason.cause if reason else "" for reason in reasons),
        "waited": [round(reason.waited_s, digits) if reason else 0 for reason in reasons],
    }


def _named(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Return texts as a list of the different ones, and which of them stands at each place."""
    numbers: dict[str, int] = {}
    places = [numbers.setdefault(text, len(numbers)) for text in texts]
    return {"names": list(numbers), "at": places}


def _hex(colour: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)
