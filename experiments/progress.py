"""What long work reports while it goes on; the command line draws it, tests ignore it."""

from __future__ import annotations

from collections.abc import Callable

from hydrasim.command import Event, Kind


class Progress:
    """Reports nothing; what draws the steps takes its place."""

    def step(self, title: str, total: int) -> Callable[[], None]:
        """Begin a step of so many ticks, 0 for unknown; return what to call for each."""
        return lambda: None


def on_compute(tick: Callable[[], None]) -> Callable[[Event], None]:
    """Return what to call with a run's events so that each computed unit ticks."""

    def on_event(event: Event) -> None:
        if event.command.kind is Kind.COMPUTE:
            tick()

    return on_event
