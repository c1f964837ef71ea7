"""The only loop: hand commands to a backend, hand its events to the orchestrator, keep the spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from hydrasim.command import Command, DeviceLost, Event, Finished, JobFailed
from hydrasim.timeline import Span, Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hydrasim.cluster import Cluster
    from hydrasim.mechanism import Effects
    from hydrasim.workload import Workload


class Named(Protocol):
    """Has a name to go by."""

    @property
    def name(self) -> str: ...


class Brain(Protocol):
    """Decides: events in, commands out. The orchestrator is one, a rival system another."""

    @property
    def policy(self) -> Named: ...
    @property
    def effects(self) -> Effects: ...
    @property
    def cluster(self) -> Cluster: ...
    @property
    def workload(self) -> Workload: ...
    @property
    def finished(self) -> bool: ...
    @property
    def withdrawn(self) -> Sequence[int]: ...

    def start(self) -> list[Command]:
        """Return the commands that open the run."""
        ...

    def handle(self, event: Event) -> list[Command]:
        """Take an event into account and return the commands that follow from it."""
        ...


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

    def withdraw(self, device: int | None, numbers: Sequence[int]) -> None:
        """Have nothing wait any more for what a lost device was to do, nor for commands that are pointless.

        Of the latter those that have not begun never do so, and those that have end as usual, and are told of no more.
        """


def run(
    brain: Brain,
    backend: Backend,
    *,
    commands: list[Command] | None = None,
    on_event: Callable[[Event], None] | None = None,
    keep_spans: bool = True,
    **header: Any,
) -> Timeline:
    """Drive a run to its end and return its timeline.

    commands: a list that receives every command issued. on_event: called with each event, for
    progress bars. keep_spans: False for a timeline without any, of a run so long that only its events matter.
    header: further fields for the timeline's header.
    """
    spans: list[Span] = []
    caused_by: dict[int, int] = {}  # command -> the one whose end had it issued
    issued = brain.start()
    while True:
        if commands is not None:
            commands.extend(issued)
        backend.submit(issued)
        if brain.finished:
            break
        event = backend.next_event()
        ended = event if keep_spans and isinstance(event, Finished) else None
        if ended is not None:
            spans.append(Span.of(ended, caused_by.pop(ended.command.number, -1)))
        if on_event is not None:
            on_event(event)
        issued = brain.handle(event)
        if isinstance(event, DeviceLost | JobFailed):
            backend.withdraw(event.device if isinstance(event, DeviceLost) else None, brain.withdrawn)
        if ended is not None:
            for command in issued:
                caused_by[command.number] = ended.command.number
    header = {
        "label": backend.label,
        "policy": brain.policy.name,
        "effects": brain.effects,
        "num_devices": len(brain.cluster.devices),
        "workload": brain.workload.digest,
        **header,
    }
    return Timeline(tuple(spans), header)
