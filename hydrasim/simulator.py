"""The simulated backend: the orchestrator's commands on SimPy's clock, at the cost model's seconds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from hydrasim.command import Command, Event, Finished, JobArrived, Kind, Lane
from hydrasim.contention import Contention
from hydrasim.errors import ProfileError, StallError
from hydrasim.loop import run
from hydrasim.mechanism import DEFAULT_EFFECTS, OURS, Effects, Mechanism, includes
from hydrasim.orchestrator import Orchestrator
from hydrasim.profile import MAX_SECONDS, CostModel, StatedCosts
from hydrasim.workload import Workload, check_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    import networkx as nx
    import simpy

    from hydrasim.cluster import Cluster, Disk
    from hydrasim.contention import Flow, Resource
    from hydrasim.dag import Node
    from hydrasim.policies.base import Policy
    from hydrasim.timeline import Timeline

MAX_VARIATION = 10.0

LaneKey = tuple["int | str", Lane]
Seconds = Callable[[Command], float]
DispatchSeconds = Callable[[Command, "Command | None"], float]


def simulate(
    workload: Workload,
    cluster: Cluster,
    policy: Policy | str,
    *,
    costs: CostModel | None = None,
    beliefs: CostModel | None = None,
    mechanism: Mechanism = OURS,
    effects: Effects = DEFAULT_EFFECTS,
    seed: int = 0,
    dags: Mapping[str, nx.DiGraph[Node]] | None = None,
    commands: list[Command] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Timeline:
    """Simulate a policy on a workload and return its timeline; times are in seconds.

    policy: a policy object or its registered name. costs: what the simulated world charges, the stated
    costs by default. beliefs: the costs that the policy sees, by default the same. seed: of random
    policies and of noise. dags: replacements for jobs' mini-batch DAGs. commands: a list that receives all commands.

    Raises:
        ShardTooLarge: a unit cannot fit its device. PolicyError: the policy misbehaved. WorkloadError: there
        are too many units. ProfileError: the costs hold something that is no time.
    """
    from hydrasim.policies import make_policy

    check_size(workload)
    costs = StatedCosts(workload, cluster, pinned=mechanism.pinned) if costs is None else costs
    orchestrator = Orchestrator(
        workload, cluster, make_policy(policy), costs if beliefs is None else beliefs,
        mechanism=mechanism, effects=effects, seed=seed, dags=dags,
    )  # fmt: skip
    backend = sim_backend(workload, cluster, costs, effects, pinned=mechanism.pinned, seed=seed)
    return run(orchestrator, backend, commands=commands, on_event=on_event, seed=seed)


def sim_backend(
    workload: Workload,
    cluster: Cluster,
    costs: CostModel,
    effects: Effects,
    *,
    pinned: bool = True,
    seed: int = 0,
    seconds: Seconds | None = None,
) -> SimBackend:
    """Return the simulated world that charges these costs, with these effects.

    seed: of noise. seconds: what commands take alone, by default what the costs say.

    Raises:
        ProfileError: the dispatch is no time, or, once it is asked for, a slowdown no factor.
    """

    def slowdown(job: str, num_computing: int) -> float:
        factor = costs.slowdown(job, num_computing)
        if 1 <= factor <= MAX_SECONDS:
            return factor
        raise ProfileError(f"the costs say that job {job!r} is slowed down {factor} times; it must be at least 1.")

    contention = Contention(cluster, slowdown, pinned=pinned) if includes(effects, "contention") else None
    dispatch_s = costs.dispatch_s() if includes(effects, "overheads") else 0.0
    if not 0 <= dispatch_s <= MAX_SECONDS:
        raise ProfileError(
            f"the costs say that dispatch takes {dispatch_s} s; it must be from 0 to {MAX_SECONDS:.0e} s."
        )
    alone = charging(costs, cluster.disk) if seconds is None else seconds
    charged = noisy(alone, costs, seed) if includes(effects, "noise") else alone
    arrivals = {job.name: job.arrival_s for job in workload.jobs if job.arrival_s}
    return SimBackend(charged, contention, lambda _, cause: 0.0 if cause is None else dispatch_s, arrivals)


def noisy(seconds: Seconds, costs: CostModel, seed: int) -> Seconds:
    """Return seconds that vary by chance about the given ones, as their costs say.

    A factor of log-normal distribution and mean 1, drawn lane by lane, so that the n-th command of a lane
    meets the same luck whatever happens elsewhere.
    """
    luck: dict[LaneKey, Random] = {}

    def varied(command: Command) -> float:
        variation = costs.variation(command)
        if not 0 <= variation <= MAX_VARIATION:
            raise ProfileError(
                f"the costs say that {command} varies by {variation} of its mean; it must be from 0 to {MAX_VARIATION}."
            )
        random = luck.setdefault(command.lane_key, Random(f"{seed} {command.lane_key}"))
        normal, sigma = random.gauss(0.0, 1.0), math.sqrt(math.log1p(variation**2))
        return seconds(command) * math.exp(sigma * normal - sigma**2 / 2)

    return varied


def charging(costs: CostModel, disk: Disk | None = None) -> Seconds:
    """Return what a command takes, in seconds, by a cost model, and by the disk for what moves there.

    Raises:
        ProfileError: when called, if that is no time.
    """

    def seconds(command: Command) -> float:
        if command.kind is Kind.COMPUTE:
            return costs.compute_s(command.unit, command.device, command.mode)
        if command.kind is Kind.FETCH:
            return costs.fetch_s(command.unit.job)
        if disk is not None and command.kind in (Kind.READ, Kind.WRITE):
            return (disk.read if command.kind is Kind.READ else disk.write).copy_s(command.nbytes)
        return costs.copy_s(command.nbytes, command.device, "h2d" if command.kind is Kind.LOAD else "d2h")

    def checked(command: Command) -> float:
        value = seconds(command)
        if 0 <= value <= MAX_SECONDS:
            return value
        raise ProfileError(
            f"the costs say that {command} takes {value} s; it must be from 0 to {MAX_SECONDS:.0e} s.\n"
            "  Correct the seconds of the workload or profile, the speed of the device or its link."
        )

    return checked


class _QueuedLane:
    __slots__ = ("busy", "queue")

    def __init__(self) -> None:
        self.queue: deque[Command] = deque()
        self.busy = False


class _Activity:
    """A command under way. left_s: seconds of work at full rate that were left at `since_s`."""

    __slots__ = ("command", "flow", "left_s", "rate", "since_s", "start_s", "timeout")

    def __init__(self, command: Command, flow: Flow | None, now_s: float, seconds: float) -> None:
        self.command, self.flow, self.start_s, self.since_s, self.left_s = command, flow, now_s, now_s, seconds
        self.rate = 0.0
        self.timeout: simpy.Timeout | None = None


class SimBackend:
    """Lanes as first-come-first-served queues: the head waits for its predecessors in its place.

    seconds: what each command takes alone, asked for when it begins. contention: which of them slow each
    other down; None for none. dispatch_s: how long each takes to reach its lane, given the command whose
    end had it issued, None at the start. arrivals: when jobs are submitted that are not there at the start.
    """

    label = "simulated"

    def __init__(
        self,
        seconds: Seconds,
        contention: Contention | None = None,
        dispatch_s: DispatchSeconds = lambda *_: 0.0,
        arrivals: Mapping[str, float] | None = None,
    ) -> None:
        import simpy

        self._seconds, self._contention, self._dispatch_s = seconds, contention, dispatch_s
        self._env = simpy.Environment(0.0)
        self._lanes: dict[LaneKey, _QueuedLane] = {}
        self._issued_s: dict[int, float] = {}
        self._unfinished: dict[int, list[_QueuedLane]] = {}  # command -> lanes whose head waits for it
        self._users: dict[Resource, dict[int, _Activity]] = {}  # by command number
        self._events: deque[Event] = deque()
        self._cause: Command | None = None
        self._on_way: dict[LaneKey, int] = {}  # how many commands are
        self._arrived_s: dict[LaneKey, float] = {}  # when the last command reaches its lane
        for job, at_s in (arrivals or {}).items():
            self._after(at_s, JobArrived(job, at_s), lambda event: self._events.append(_value(event)))

    def submit(self, commands: list[Command]) -> None:
        """Queue commands on their lanes, once they get there; none overtakes another of its lane."""
        for command in commands:
            self._unfinished[command.number] = []
            due_s = self._env.now + self._dispatch_s(command, self._cause)
            due_s = self._arrived_s[command.lane_key] = max(self._arrived_s.get(command.lane_key, 0.0), due_s)
            if due_s > self._env.now or self._on_way.get(command.lane_key):
                self._on_way[command.lane_key] = self._on_way.get(command.lane_key, 0) + 1
                self._after(due_s - self._env.now, command, self._arrive)
            else:
                self._queue(command)

    def next_event(self) -> Event:
        """Advance the clock to the next end of a command, or arrival of a job."""
        import simpy

        while not self._events:
            try:
                self._env.step()
            except simpy.core.EmptySchedule:
                raise StallError(self._explain_stall()) from None
        event = self._events.popleft()
        self._cause = event.command if isinstance(event, Finished) else None
        return event

    def _after(self, seconds: float, value: Any, callback: Callable[[simpy.Event], None]) -> simpy.Timeout:
        timeout = self._env.timeout(seconds, value)
        assert timeout.callbacks is not None
        timeout.callbacks.append(callback)
        return timeout

    def _arrive(self, event: simpy.Event) -> None:
        command: Command = _value(event)
        self._on_way[command.lane_key] -= 1
        self._queue(command)

    def _queue(self, command: Command) -> None:
        self._issued_s[command.number] = self._env.now
        lane = self._lanes.setdefault(command.lane_key, _QueuedLane())
        lane.queue.append(command)
        if len(lane.queue) == 1 and not lane.busy:
            self._advance(lane)

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
        contention = self._contention
        flow = None if contention is None else contention.flow_of(command.device, command.kind.value, command.peer)
        activity = _Activity(command, flow, self._env.now, self._seconds(command))
        if flow is None:
            self._set_rate(activity, 1.0)
        elif flow.latency_s:
            latency_s = min(flow.latency_s, activity.left_s)
            activity.left_s -= latency_s
            self._after(latency_s, activity, lambda event: self._join(_value(event)))
        else:
            self._join(activity)

    def _join(self, activity: _Activity) -> None:
        """Have an activity use what it competes for."""
        assert activity.flow is not None
        activity.since_s = self._env.now
        self._users.setdefault(activity.flow.domain, {})[activity.command.number] = activity
        self._share(activity.flow.domain)

    def _share(self, domain: Resource) -> None:
        """Give everyone who competes in a domain the new rate."""
        assert self._contention is not None
        users = list(self._users[domain].values())
        flows = [activity.flow for activity in users if activity.flow is not None]
        rates = self._contention.rates(flows, [activity.command for activity in users])
        for activity, rate in zip(users, rates, strict=True):
            if activity.rate != rate:
                self._set_rate(activity, rate)

    def _set_rate(self, activity: _Activity, rate: float) -> None:
        """Have an activity go on at another rate, which moves its end."""
        now_s = self._env.now
        activity.left_s = max(0.0, activity.left_s - activity.rate * (now_s - activity.since_s))
        activity.since_s, activity.rate = now_s, rate
        activity.timeout = self._after(activity.left_s / rate, activity, self._finish)

    def _finish(self, timeout: simpy.Event) -> None:
        activity: _Activity = _value(timeout)
        if activity.timeout is not timeout:
            return  # its rate has changed since
        command = activity.command
        lane = self._lanes[command.lane_key]
        lane.busy = False
        issued_s = self._issued_s.pop(command.number)
        self._events.append(Finished(command, activity.start_s, self._env.now, issued_s))
        if activity.flow is not None:
            domain = activity.flow.domain
            del self._users[domain][command.number]
            self._share(domain)
        for waiting in (lane, *self._unfinished.pop(command.number)):
            self._advance(waiting)

    def _explain_stall(self) -> str:
        lines = ["nothing can start any more, yet commands are left:"]
        for (owner, kind), lane in self._lanes.items():
            if lane.queue:
                head = lane.queue[0]
                missing = [number for number in head.after if number in self._unfinished]
                lines.append(f"  {owner} {kind.value}: {head} (command {head.number}) waits for {missing}")
        return "\n".join(lines)


def _value(event: simpy.Event) -> Any:
    return event.value
