"""The only loop: hand commands to a backend, hand its events to the orchestrator, keep the spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from hydrasim.command import Command, Event, Finished
from hydrasim.timeline import Span, Timeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from hydrasim.orchestrator import Orchestrator


class Backend(Protocol):
    """Carries commands out, in simulated or in real time.

    label: "simulated", "emulated" or "measured"; every timeline says which.
    """

    label: str

    def submit(self, commands: list[Command]) -> None:
        """Queue commands on their lanes; a lane keeps its order and holds its place while it waits."""

    def next_event(self) -> Event:
        """Wait for the next event. Raises StallError when commands are left and none can ever start."""
        ...


def run(
    orchestrator: Orchestrator,
    backend: Backend,
    *,
    commands: list[Command] | None = None,
    on_event: Callable[[Event], None] | None = None,
    **header: Any,
) -> Timeline:
    """Drive a run to its end and return its timeline.

    commands: a list that receives every command issued. on_event: called with each event, for
    progress bars. header: further fields for the timeline's header.
    """
    spans: list[Span] = []
    caused_by: dict[int, int] = {}  # command -> the one whose end had it issued
    issued = orchestrator.start()
    while True:
        if commands is not None:
            commands.extend(issued)
        backend.submit(issued)
        if orchestrator.finished:
            break
        event = backend.next_event()
        if isinstance(event, Finished):
            spans.append(Span.of(event, caused_by.pop(event.command.number, -1)))
        if on_event is not None:
            on_event(event)
        issued = orchestrator.handle(event)
        if isinstance(event, Finished):
            caused_by.update(dict.fromkeys((command.number for command in issued), event.command.number))
    header = {
        "label": backend.label,
        "policy": orchestrator.policy.name,
        "effects": orchestrator.effects,
        "num_devices": len(orchestrator.cluster.devices),
        "workload": orchestrator.workload.digest,
        **header,
    }
    return Timeline(tuple(spans), header)
