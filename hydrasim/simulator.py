"""The simulated backend: the orchestrator's commands on SimPy's clock, at the cost model's seconds."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from hydrasim.command import Command, Finished, Kind, Lane
from hydrasim.errors import StallError
from hydrasim.loop import run
from hydrasim.mechanism import OURS, Effects, Mechanism
from hydrasim.orchestrator import Orchestrator
from hydrasim.profile import CostModel, StatedCosts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import networkx as nx
    import simpy

    from hydrasim.cluster import Cluster
    from hydrasim.command import Event
    from hydrasim.dag import Node
    from hydrasim.policies.base import Policy
    from hydrasim.timeline import Timeline
    from hydrasim.workload import Workload


def simulate(
    workload: Workload,
    cluster: Cluster,
    policy: Policy | str,
    *,
    costs: CostModel | None = None,
    beliefs: CostModel | None = None,
    mechanism: Mechanism = OURS,
    effects: Effects = "transfers",
    seed: int = 0,
    dags: Mapping[str, nx.DiGraph[Node]] | None = None,
    commands: list[Command] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Timeline:
    """Simulate a policy on a workload and return its timeline; times are in seconds.

    policy: a policy object or its registered name. costs: what the simulated world charges, the stated
    costs by default. beliefs: the costs that the policy sees, by default the same. seed: of random
    policies. dags: replacements for jobs' mini-batch DAGs. commands: a list that receives all commands.

    Raises:
        ShardTooLarge: a unit cannot fit its device. PolicyError: the policy misbehaved.
    """
    from hydrasim.policies import make_policy

    costs = StatedCosts(workload, cluster) if costs is None else costs
    orchestrator = Orchestrator(
        workload, cluster, make_policy(policy), costs if beliefs is None else beliefs,
        mechanism=mechanism, effects=effects, seed=seed, dags=dags,
    )  # fmt: skip
    return run(orchestrator, SimBackend(costs), commands=commands, on_event=on_event, seed=seed)


class _QueuedLane:
    __slots__ = ("busy", "queue")

    def __init__(self) -> None:
        self.queue: deque[Command] = deque()
        self.busy = False


class SimBackend:
    """Lanes as first-come-first-served queues: the head waits for its predecessors in its place."""

    label = "simulated"

    def __init__(self, costs: CostModel) -> None:
        import simpy

        self._costs = costs
        self._env = simpy.Environment(0.0)
        self._lanes: dict[tuple[int | str, Lane], _QueuedLane] = {}
        self._issued_s: dict[int, float] = {}
        self._unfinished: dict[int, list[_QueuedLane]] = {}  # command -> lanes whose head waits for it
        self._events: deque[Finished] = deque()

    def submit(self, commands: list[Command]) -> None:
        """Queue commands on their lanes."""
        for command in commands:
            self._unfinished[command.number] = []
            self._issued_s[command.number] = self._env.now
            lane = self._lanes.setdefault(command.lane_key, _QueuedLane())
            lane.queue.append(command)
            if len(lane.queue) == 1 and not lane.busy:
                self._advance(lane)

    def next_event(self) -> Finished:
        """Advance the clock to the next end of a command."""
        import simpy

        while not self._events:
            try:
                self._env.step()
            except simpy.core.EmptySchedule:
                raise StallError(self._explain_stall()) from None
        return self._events.popleft()

    def _advance(self, lane: _QueuedLane) -> None:
        """Start the head of a free lane, or have it wait for one unfinished predecessor."""
        if lane.busy or not lane.queue:
            return
        command = lane.queue[0]
        for number in command.after:
            if number in self._unfinished:
                self._unfinished[number].append(lane)
                return
        lane.queue.popleft()
        lane.busy = True
        start_s = self._env.now

        def finish(_: simpy.Event) -> None:
            lane.busy = False
            issued_s = self._issued_s.pop(command.number)
            self._events.append(Finished(command, start_s, self._env.now, issued_s))
            for waiting in (lane, *self._unfinished.pop(command.number)):
                self._advance(waiting)

        timeout = self._env.timeout(self._seconds(command))
        assert timeout.callbacks is not None
        timeout.callbacks.append(finish)

    def _seconds(self, command: Command) -> float:
        if command.kind is Kind.COMPUTE:
            return self._costs.compute_s(command.unit, command.device)
        if command.kind is Kind.FETCH:
            return self._costs.fetch_s(command.unit.job)
        return self._costs.copy_s(command.nbytes, command.device, "h2d" if command.kind is Kind.LOAD else "d2h")

    def _explain_stall(self) -> str:
        lines = ["nothing can start any more, yet commands are left:"]
        for (owner, kind), lane in self._lanes.items():
            if lane.queue:
                head = lane.queue[0]
                missing = [number for number in head.after if number in self._unfinished]
                lines.append(f"  {owner} {kind.value}: {head} (command {head.number}) waits for {missing}")
        return "\n".join(lines)
