"""The loop between orchestrator and backend."""

from __future__ import annotations

from collections import deque

import pytest

from hydrasim.command import Command, Event, Failed, Finished, Kind
from hydrasim.loop import run
from hydrasim.orchestrator import Orchestrator
from hydrasim.policies import make_policy
from hydrasim.profile import StatedCosts
from tests.worlds import devices, job, units, workload


class OneByOne:
    """A backend that carries commands out one at a time, a second each; `fails` may name a unit that raises."""

    label = "emulated"

    def __init__(self, fails: str = "") -> None:
        self.queue: deque[Command] = deque()
        self.fails = fails
        self.now_s = 0.0

    def submit(self, commands: list[Command]) -> None:
        self.queue.extend(commands)

    def next_event(self) -> Event:
        command = self.queue.popleft()
        if command.kind is Kind.COMPUTE and str(command.unit) == self.fails:
            return Failed(command, ArithmeticError(f"{command.unit} met a NaN"))
        self.now_s += 1.0
        return Finished(command, self.now_s - 1.0, self.now_s)


def orchestrator() -> Orchestrator:
    jobs, cluster = workload(job(shards=2)), devices(1)
    return Orchestrator(jobs, cluster, make_policy("fifo"), StatedCosts(jobs, cluster))


def test_a_run_records_every_command_and_says_what_it_was():
    commands: list[Command] = []
    brain = orchestrator()
    timeline = run(brain, OneByOne(), commands=commands, note="x")
    assert units(timeline) == ["A/F0#0", "A/L1#0", "A/B0#0"]
    assert [span.number for span in timeline.spans] == [command.number for command in commands]
    assert timeline.makespan_s == len(commands)
    assert timeline.header == {
        "label": "emulated",
        "policy": "fifo",
        "effects": "overheads",
        "num_devices": 1,
        "workload": brain.workload.digest,
        "note": "x",
    }


def test_every_event_is_shown_to_whoever_asked():
    events: list[Event] = []
    timeline = run(orchestrator(), OneByOne(), on_event=events.append)
    assert len(events) == len(timeline.spans)


def test_a_failure_reaches_the_caller():
    with pytest.raises(ArithmeticError, match="A/L1#0 met a NaN"):
        run(orchestrator(), OneByOne(fails="A/L1#0"))


def test_a_run_that_keeps_no_spans_has_the_same_events():
    seen: list[list[Event]] = [[], []]
    kept = run(orchestrator(), OneByOne(), on_event=seen[0].append)
    none = run(orchestrator(), OneByOne(), on_event=seen[1].append, keep_spans=False)
    assert len(kept.spans) == len(seen[0]) == len(seen[1])
    assert none.spans == ()
    assert none.header == kept.header
    assert seen[0] == seen[1]
