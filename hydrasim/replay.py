"""Replay: simulate a plan with the durations of a recorded run, to see what the simulator itself gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrasim.command import Command, Event, Finished, JobArrived
from hydrasim.errors import TimelineError
from hydrasim.loop import run
from hydrasim.mechanism import OURS, Mechanism
from hydrasim.orchestrator import Orchestrator
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import StatedCosts
from hydrasim.sim_backend import SimBackend
from hydrasim.simulator import arrivals

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.plan import Plan
    from hydrasim.timeline import Span, Timeline
    from hydrasim.workload import Workload

LaneKey = tuple[int | str, str]


def replay(
    workload: Workload, cluster: Cluster, plan: Plan, recorded: Timeline, *, mechanism: Mechanism = OURS
) -> Timeline:
    """Simulate a plan, charging every command what it took in a recorded run of the same plan.

    A command's seconds count from when it could have begun, so the hand-over from the one before is in; it
    is issued as long after the end that caused it as it was then. Under one plan the n-th command of a
    lane is the same in every run; its number is not.

    Raises:
        TimelineError: the timeline is of another plan, or incomplete.
    """
    tape = _Tape(recorded)
    orchestrator = Orchestrator(
        workload, cluster, FollowPlan(plan), StatedCosts(workload, cluster), mechanism=mechanism
    )
    backend = SimBackend(tape.seconds, dispatch_s=tape.dispatch_s, happenings=arrivals(workload))
    timeline = run(orchestrator, backend, on_event=tape.note, replay_of=str(recorded.header.get("label", "")))
    tape.check_finished()
    return timeline


class _Tape:
    """A recorded run, lane by lane, and how far the replay has come on each."""

    def __init__(self, recorded: Timeline) -> None:
        self._lanes: dict[LaneKey, list[Span]] = {}
        self._place: dict[int, tuple[LaneKey, int]] = {}  # recorded number -> where the span is on which lane
        for span in sorted(recorded.spans, key=lambda span: span.number):
            spans = self._lanes.setdefault(span.lane_key, [])
            self._place[span.number] = span.lane_key, len(spans)
            spans.append(span)
        self._ready_s, self._delay_s = recorded.ready_s(), recorded.dispatch_s()
        self._issued = dict.fromkeys(self._lanes, 0)
        self._begun = dict.fromkeys(self._lanes, 0)
        self._ends_s: dict[LaneKey, list[float]] = {lane: [] for lane in self._lanes}
        self._now_s = 0.0

    def note(self, event: Event) -> None:
        """Take down when a command ended in the replay, or a job arrived."""
        if isinstance(event, Finished):
            self._ends_s[_lane_of(event.command)].append(event.end_s)
            self._now_s = event.end_s
        elif isinstance(event, JobArrived):
            self._now_s = event.at_s

    def dispatch_s(self, command: Command, _: Command | None) -> float:
        """Return how long the command takes to be issued: from the end that caused it then, if that has come."""
        span = self._next(command, self._issued)
        if span.number not in self._delay_s:
            return max(0.0, span.issued_s - self._now_s)  # issued at the start, or when a job arrived
        lane, index = self._place[span.cause]
        ends_s = self._ends_s[lane]
        caused_s = ends_s[index] if index < len(ends_s) else self._now_s
        return max(0.0, caused_s + self._delay_s[span.number] - self._now_s)

    def seconds(self, command: Command) -> float:
        """Return what the command took."""
        span = self._next(command, self._begun)
        if (span.kind, span.unit) != (command.kind.value, str(command.unit)):
            raise TimelineError(
                f"the recorded run did {span.kind} {span.unit}, the plan says {command}; replay its own plan."
            )
        return span.end_s - self._ready_s[span.number]

    def check_finished(self) -> None:
        """Make sure that the replay has used all of the recorded run."""
        left = sum(len(spans) - self._begun[lane] for lane, spans in self._lanes.items())
        if left:
            raise TimelineError(f"the recorded run has {left} commands that the plan does not; replay its own plan.")

    def _next(self, command: Command, position: dict[LaneKey, int]) -> Span:
        lane = _lane_of(command)
        spans = self._lanes.get(lane, [])
        if position.get(lane, 0) == len(spans):
            raise TimelineError(f"the recorded run has no more commands for {command}; was it cut short?")
        position[lane] += 1
        return spans[position[lane] - 1]


def _lane_of(command: Command) -> LaneKey:
    owner, lane = command.lane_key
    return owner, lane.value
