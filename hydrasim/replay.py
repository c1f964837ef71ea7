"""Replay: simulate a plan with the durations of a recorded run, to see what the simulator itself gets wrong."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from hydrasim.command import HOST, Command
from hydrasim.errors import TimelineError
from hydrasim.loop import run
from hydrasim.mechanism import OURS, Mechanism
from hydrasim.orchestrator import Orchestrator
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import StatedCosts
from hydrasim.simulator import SimBackend

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.plan import Plan
    from hydrasim.timeline import Timeline
    from hydrasim.workload import Workload


def replay(
    workload: Workload, cluster: Cluster, plan: Plan, recorded: Timeline, *, mechanism: Mechanism = OURS
) -> Timeline:
    """Simulate a plan, charging every command what it took in a recorded run of the same plan.

    A command's seconds count from when it could have begun, so the hand-over from the one before is in.
    Under one plan the n-th command of a lane is the same in every run; its number is not.

    Raises:
        TimelineError: the timeline is of another plan, or incomplete.
    """
    recorded_s = _Recorded(recorded)
    orchestrator = Orchestrator(
        workload, cluster, FollowPlan(plan), StatedCosts(workload, cluster), mechanism=mechanism
    )
    backend = SimBackend(recorded_s.seconds, dispatch_s=recorded_s.dispatch_s)
    timeline = run(orchestrator, backend, replay_of=str(recorded.header.get("label", "")))
    recorded_s.check_finished()
    return timeline


class _Recorded:
    """Seconds of each lane's commands, in their order: until they were issued, and what they took."""

    def __init__(self, recorded: Timeline) -> None:
        ready_s, dispatch_s = recorded.ready_s(), recorded.dispatch_s()
        self._issues: dict[tuple[int | str, str], deque[float]] = {}
        self._lanes: dict[tuple[int | str, str], deque[tuple[str, str, float]]] = {}
        for span in sorted(recorded.spans, key=lambda span: span.number):
            lane = (span.job if span.device == HOST else span.device), span.lane
            self._issues.setdefault(lane, deque()).append(dispatch_s.get(span.number, span.issued_s))
            entry = (span.kind, span.unit, span.end_s - ready_s[span.number])
            self._lanes.setdefault(lane, deque()).append(entry)

    def dispatch_s(self, command: Command, _: Command | None) -> float:
        owner, lane = command.lane_key
        issues = self._issues.get((owner, lane.value))
        return issues.popleft() if issues else 0.0

    def seconds(self, command: Command) -> float:
        owner, lane = command.lane_key
        entries = self._lanes.get((owner, lane.value))
        if not entries:
            raise TimelineError(f"the recorded run has no more commands for {command}; was it cut short?")
        kind, unit, seconds = entries.popleft()
        if (kind, unit) != (command.kind.value, str(command.unit)):
            raise TimelineError(f"the recorded run did {kind} {unit}, the plan says {command}; replay its own plan.")
        return seconds

    def check_finished(self) -> None:
        left = sum(map(len, self._lanes.values()))
        if left:
            raise TimelineError(f"the recorded run has {left} commands that the plan does not; replay its own plan.")
