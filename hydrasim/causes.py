"""Where a makespan goes: every device's time by cause, so that two timelines of one plan can be compared.

Each moment of a device belongs to one cause: it computes, or its next unit waits for a copy (h2d or
d2h), for a loader (host), for another device or its own turn (wait), or to be dispatched (overhead). A unit
computes from when it could: the hand-over on its lane is part of what is profiled, and so simulated, as its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from hydrasim.command import Kind

if TYPE_CHECKING:
    from hydrasim.timeline import Span, Timeline

Cause = Literal["compute", "h2d", "d2h", "host", "wait", "overhead"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
_OF_KIND: dict[str, Cause] = {
    Kind.LOAD.value: "h2d",
    Kind.STORE.value: "d2h",
    Kind.FETCH.value: "host",
    Kind.COMPUTE.value: "wait",
}


def seconds_by_cause(timeline: Timeline) -> dict[Cause, float]:
    """Return the makespan split by cause, in seconds, averaged over the devices; the sum is the makespan."""
    total = dict.fromkeys(CAUSES, 0.0)
    by_number = {span.number: span for span in timeline.spans}
    for device in range(timeline.num_devices):
        now_s = 0.0
        mine = (span for span in timeline.spans if span.device == device and span.kind == Kind.COMPUTE.value)
        for span in sorted(mine, key=lambda span: span.number):
            for cause, end_s in _delays(span, by_number):
                total[cause] += max(0.0, end_s - now_s)
                now_s = max(now_s, end_s)
            total["compute"] += span.end_s - now_s
            now_s = span.end_s
        for cause, end_s in _tail(timeline, device):
            total[cause] += max(0.0, end_s - now_s)
            now_s = max(now_s, end_s)
    return {cause: seconds / timeline.num_devices for cause, seconds in total.items()}


def _delays(span: Span, by_number: dict[int, Span]) -> list[tuple[Cause, float]]:
    """Return what the span waited for and until when, earliest first."""
    found: list[tuple[Cause, float]] = [
        (_OF_KIND[by_number[number].kind], by_number[number].end_s) for number in span.after if number in by_number
    ]
    caused_s = by_number[span.cause].end_s if span.cause in by_number else 0.0
    found += [("wait", caused_s), ("overhead", max(caused_s, span.issued_s))]
    return sorted(found, key=lambda delay: delay[1])


def _tail(timeline: Timeline, device: int) -> list[tuple[Cause, float]]:
    """Return until when the device still stores after its last unit, and the end of the run."""
    stores = [s.end_s for s in timeline.spans if s.device == device and s.kind == Kind.STORE.value]
    return [("d2h", max(stores, default=0.0)), ("wait", timeline.makespan_s)]
