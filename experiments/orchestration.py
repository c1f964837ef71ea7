"""What orchestrating a run cost: the orchestrator's own seconds, and devices that idled though a unit was ready."""

from __future__ import annotations

from hydrasim.command import Kind
from hydrasim.timeline import Timeline


def orchestration_fraction(timeline: Timeline) -> float:
    """Return the orchestrator's CPU seconds and the devices' mean idle seconds with a unit ready, over the makespan.

    timeline: of an executed run.
    """
    idle_s = idle_while_ready_s(timeline)
    return (timeline.header["core_s"]["orchestrator"] + sum(idle_s) / len(idle_s)) / timeline.makespan_s


def idle_while_ready_s(timeline: Timeline) -> list[float]:
    """Return by device the seconds between the moments at which units could have begun and those at which they did.

    A unit is ready when its lane is free, all that it follows is done, and what had it issued has ended: what deciding,
    sending it to its process and taking it up there take lies after that.
    """
    end_s = {span.number: span.end_s for span in timeline.spans}
    idle_s = [0.0] * timeline.num_devices
    for device in range(timeline.num_devices):
        free_s = 0.0
        computes = [span for span in timeline.by_device[device] if span.kind == Kind.COMPUTE.value]
        for span in sorted(computes, key=lambda span: span.number):
            before = [end_s[number] for number in (*span.after, span.cause) if number in end_s]
            idle_s[device] += max(0.0, span.start_s - max(free_s, *before, 0.0))
            free_s = span.end_s
    return idle_s
