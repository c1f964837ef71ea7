"""The simulated world: lanes as queues on SimPy's clock, and which commands slow each other down."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hydrasim.charging import Seconds
from hydrasim.command import Command, DeviceBack, DeviceLost, Event, Finished, Happening, Lane
from hydrasim.contention import Contention
from hydrasim.errors import StallError

if TYPE_CHECKING:
    import simpy

    from hydrasim.contention import Flow

LaneKey = tuple["int | str", Lane]
DispatchSeconds = Callable[[Command, "Command | None"], float]


class _QueuedLane:
    """on_way: commands that have not reached it yet. due_s: when the last of them does. queue: with when they did."""

    __slots__ = ("busy", "due_s", "on_way", "queue")

    def __init__(self) -> None:
        self.queue: deque[tuple[Command, float]] = deque()
        self.on_way: deque[Command] = deque()
        self.due_s = 0.0
        self.busy = False


class _Activity:
    """A command under way. left_s: seconds of work at full rate left at `since_s`; end_s: when none will be."""

    __slots__ = ("command", "end_s", "flow", "is_lost", "issued_s", "lane", "left_s", "rate", "since_s", "start_s")

    def __init__(
        self, command: Command, lane: _QueuedLane, flow: Flow | None, issued_s: float, now_s: float, seconds: float
    ) -> None:
        self.command, self.lane, self.flow, self.issued_s = command, lane, flow, issued_s
        self.start_s = self.since_s = now_s
        self.left_s, self.rate, self.end_s, self.is_lost = seconds, 0.0, math.inf, False


class SimBackend:
    """Lanes as first-come-first-served queues: the head waits for its predecessors in its place.

    seconds: what each command takes alone, asked for when it begins. contention: which of them slow each
    other down; None for none. dispatch_s: how long each takes to reach its lane, given the command whose
    end had it issued, None at the start. happenings: jobs that are submitted later, or end early.
    """

    label = "simulated"

    def __init__(
        self,
        seconds: Seconds,
        contention: Contention | None = None,
        dispatch_s: DispatchSeconds = lambda *_: 0.0,
        happenings: Sequence[Happening | DeviceLost | DeviceBack] = (),
    ) -> None:
        import simpy

        self._seconds, self._contention, self._dispatch_s = seconds, contention, dispatch_s
        self._env, self._nothing_left = simpy.Environment(0.0), simpy.core.EmptySchedule
        self._lanes: defaultdict[LaneKey, _QueuedLane] = defaultdict(_QueuedLane)
        self._unfinished: dict[int, list[_QueuedLane]] = {}  # command -> lanes whose head waits for it
        self._users: dict[int, _Activity] = {}  # who competes for anything, by command number
        self._users_changed = False
        self._next_end: simpy.Timeout | None = None  # of those who compete
        self._next_end_s = math.inf
        self._events: deque[Event] = deque()
        self._cause: Command | None = None
        self._under_way: dict[int, _Activity] = {}
        self._lost: set[int] = set()  # that never begin or end
        self._pointless: set[int] = set()  # that end, and nobody is told
        for happening in happenings:
            self._after(happening.at_s, happening, lambda event: self._events.append(_value(event)))

    def submit(self, commands: list[Command]) -> None:
        """Queue commands on their lanes, once they get there; none overtakes another of its lane."""
        now_s = self._env.now
        for command in commands:
            self._unfinished[command.number] = []
            lane = self._lanes[command.lane_key]
            lane.due_s = max(lane.due_s, now_s + self._dispatch_s(command, self._cause))
            if lane.due_s > now_s or lane.on_way:
                lane.on_way.append(command)
                self._after(lane.due_s - now_s, lane, self._arrive)
            else:
                self._queue(command, lane)

    def next_event(self) -> Event:
        """Advance the clock to the next end of a command, or arrival of a job."""
        env = self._env
        while not self._events:
            if self._users_changed and env.peek() > env.now:
                self._share()
            try:
                env.step()
            except self._nothing_left:
                raise StallError(self._explain_stall()) from None
        event = self._events.popleft()
        self._cause = event.command if isinstance(event, Finished) else None
        return event

    def withdraw(self, device: int | None, numbers: Sequence[int]) -> None:
        """See `hydrasim.loop.Backend`."""
        for activity in [one for one in self._under_way.values() if one.command.device == device]:
            activity.is_lost, activity.lane.busy = True, False
            del self._under_way[activity.command.number]
            self._lost.add(activity.command.number)
            if self._users.pop(activity.command.number, None) is not None:
                self._users_changed = True
        for (owner, _), lane in self._lanes.items():
            if owner == device:
                self._lost.update(command.number for command in (*lane.on_way, *(one for one, _ in lane.queue)))
        for number in numbers:
            (self._pointless if number in self._under_way else self._lost).add(number)
        for number in [number for number in self._unfinished if number in self._lost]:
            for lane in self._unfinished.pop(number):
                self._advance(lane)
        for lane in self._lanes.values():
            self._advance(lane)

    def _after(self, seconds: float, value: Any, callback: Callable[[simpy.Event], None]) -> simpy.Timeout:
        timeout = self._env.timeout(seconds, value)
        assert timeout.callbacks is not None
        timeout.callbacks.append(callback)
        return timeout

    def _arrive(self, event: simpy.Event) -> None:
        lane: _QueuedLane = _value(event)
        self._queue(lane.on_way.popleft(), lane)

    def _queue(self, command: Command, lane: _QueuedLane) -> None:
        lane.queue.append((command, self._env.now))
        if len(lane.queue) == 1 and not lane.busy:
            self._advance(lane)

    def _advance(self, lane: _QueuedLane) -> None:
        """Start the head of a free lane, or have it wait for one unfinished predecessor."""
        while lane.queue and lane.queue[0][0].number in self._lost:
            lane.queue.popleft()
        if lane.busy or not lane.queue:
            return
        command, issued_s = lane.queue[0]
        for number in command.after:
            if number in self._unfinished:
                self._unfinished[number].append(lane)
                return
        lane.queue.popleft()
        lane.busy = True
        contention, now_s, seconds = self._contention, self._env.now, self._seconds(command)
        flow = None if contention is None else contention.flow_of(command.device, command.kind, command.peer)
        activity = self._under_way[command.number] = _Activity(command, lane, flow, issued_s, now_s, seconds)
        if flow is None or seconds <= flow.latency_s:
            self._after(seconds, activity, lambda event: self._finish(_value(event)))
        elif flow.latency_s:
            activity.left_s -= flow.latency_s
            self._after(flow.latency_s, activity, lambda event: self._join(_value(event)))
        else:
            self._join(activity)

    def _join(self, activity: _Activity) -> None:
        """Have an activity use what it competes for."""
        if activity.is_lost:
            return
        self._users[activity.command.number] = activity
        self._users_changed = True

    def _share(self) -> None:
        """Give everyone who competes the rate that lasts until the next one joins or leaves."""
        assert self._contention is not None
        now_s, self._users_changed = self._env.now, False
        users = list(self._users.values())
        flows = [activity.flow for activity in users if activity.flow is not None]
        rates = self._contention.rates(flows, [activity.command for activity in users])
        for activity, rate in zip(users, rates, strict=True):
            if activity.rate != rate:
                activity.left_s = max(0.0, activity.left_s - activity.rate * (now_s - activity.since_s))
                activity.since_s, activity.rate = now_s, rate
                activity.end_s = now_s + activity.left_s / rate
        next_end_s = min((activity.end_s for activity in users), default=math.inf)
        if next_end_s != self._next_end_s:
            self._next_end_s = next_end_s
            self._next_end = self._after(max(0.0, next_end_s - now_s), None, self._end) if users else None

    def _end(self, timeout: simpy.Event) -> None:
        """Finish those who compete and are done, unless somebody joined or left since the timeout was set."""
        if timeout is not self._next_end:
            return
        done = [activity for activity in self._users.values() if activity.end_s <= self._next_end_s]
        self._next_end_s = math.inf
        for activity in done:
            self._finish(activity)

    def _finish(self, activity: _Activity) -> None:
        command, lane = activity.command, activity.lane
        if activity.is_lost:
            return
        del self._under_way[command.number]
        lane.busy = False
        if command.number not in self._pointless:
            self._events.append(Finished(command, activity.start_s, self._env.now, activity.issued_s))
        if self._users.pop(command.number, None) is not None:
            self._users_changed = True
        for waiting in (lane, *self._unfinished.pop(command.number)):
            self._advance(waiting)

    def _explain_stall(self) -> str:
        lines = ["nothing can start any more, yet commands are left:"]
        for (owner, kind), lane in self._lanes.items():
            if lane.queue:
                head, _ = lane.queue[0]
                missing = [number for number in head.after if number in self._unfinished]
                lines.append(f"  {owner} {kind.value}: {head} (command {head.number}) waits for {missing}")
        return "\n".join(lines)


def _value(event: simpy.Event) -> Any:
    return event.value
