"""Where a makespan goes: every device's time by cause, so that two timelines of one plan can be compared.

Each moment of a device belongs to one cause: it computes, or its next unit waits for a copy (h2d or d2h), for
what other devices send (peer), for the disk, for a loader or an update on the host (host), for another device or
its own turn (wait), or to be dispatched (overhead). A unit computes from when it could: the hand-over on its
lane is part of what is profiled, and so simulated, as its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from hydrasim.command import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hydrasim.timeline import Span, Timeline

Cause = Literal["compute", "h2d", "d2h", "peer", "disk", "host", "wait", "overhead"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
_OF_KIND: dict[str, Cause] = {
    Kind.LOAD.value: "h2d",
    Kind.STORE.value: "d2h",
    Kind.SEND.value: "peer",
    Kind.GATHER.value: "peer",
    Kind.READ.value: "disk",
    Kind.WRITE.value: "disk",
    Kind.FETCH.value: "host",
    Kind.UPDATE.value: "host",
    Kind.SAVE.value: "host",
    Kind.RESTORE.value: "host",
    Kind.COMPUTE.value: "wait",
}
# What a unit waits for behind the copy that it follows: before a load may begin, the disk or the host has work to do;
# before a send or a collective may, another device has.
_BEHIND: dict[str, set[str]] = {
    Kind.LOAD.value: {Kind.READ.value, Kind.WRITE.value, Kind.UPDATE.value},
    Kind.SEND.value: {Kind.COMPUTE.value},
    Kind.GATHER.value: {Kind.COMPUTE.value},
}


def seconds_by_cause(timeline: Timeline) -> dict[Cause, float]:
    """Return the makespan split by cause, in seconds, averaged over the devices; the sum is the makespan."""
    devices = causes_by_device(timeline)
    return {cause: sum(seconds[cause] for seconds in devices) / len(devices) for cause in CAUSES}


def causes_by_device(timeline: Timeline) -> list[dict[Cause, float]]:
    """Return every device's makespan split by cause, in seconds."""
    by_number = {span.number: span for span in timeline.spans}
    all_s = max((span.end_s for span in timeline.spans if _OF_KIND[span.kind] != "disk"), default=0.0)
    found = []
    for device in range(timeline.num_devices):
        total = dict.fromkeys(CAUSES, 0.0)
        now_s = 0.0
        computes = [span for span in timeline.by_device[device] if span.kind == Kind.COMPUTE.value]
        for span in sorted(computes, key=lambda span: span.number):
            for cause, end_s in sorted(_delays(span, by_number), key=lambda delay: delay[1]):
                total[cause] += max(0.0, end_s - now_s)
                now_s = max(now_s, end_s)
            total["compute"] += span.end_s - now_s
            now_s = span.end_s
        # After its last unit: until its other lanes are idle, until all devices are, and at last until the disk is.
        for cause, end_s in (*_lane_ends(timeline.by_device[device]), ("wait", all_s), ("disk", timeline.makespan_s)):
            total[cause] += max(0.0, end_s - now_s)
            now_s = max(now_s, end_s)
        found.append(total)
    return found


def _delays(span: Span, by_number: dict[int, Span]) -> Iterator[tuple[Cause, float]]:
    """Yield what the span waited for and until when."""
    for before in _followed(span, by_number):
        if before.cause not in by_number:  # issued at the start, or when its job arrived
            yield "wait", before.issued_s
        yield _OF_KIND[before.kind], before.end_s
        if kinds := _BEHIND.get(before.kind):
            behind = (other for other in _followed(before, by_number) if other.kind in kinds)
            yield from ((_OF_KIND[other.kind], other.end_s) for other in behind)
    caused_s = by_number[span.cause].end_s if span.cause in by_number else span.issued_s
    yield "wait", caused_s
    yield "overhead", max(caused_s, span.issued_s)


def _followed(span: Span, by_number: dict[int, Span]) -> Iterator[Span]:
    return (by_number[number] for number in span.after if number in by_number)


def _lane_ends(spans: list[Span]) -> list[tuple[Cause, float]]:
    """Return until when the last of the spans of each cause went on, earliest first."""
    ends: dict[Cause, float] = {}
    for span in spans:
        cause = _OF_KIND[span.kind]
        ends[cause] = max(ends.get(cause, 0.0), span.end_s)
    return sorted(ends.items(), key=lambda item: item[1])
