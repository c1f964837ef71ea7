"""Events in, commands out: the one place that decides what runs where and what moves.

Pure and single-threaded: no clock, no torch, no simpy. The simulator and the live executor drive the
same object, so what was simulated is what runs.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING

from hydrasim.asking import ask, complain_of_idling, complain_of_order
from hydrasim.command import (
    HOST,
    Command,
    DeviceBack,
    DeviceLost,
    Event,
    Failed,
    Finished,
    Happening,
    JobArrived,
    JobFailed,
    Kind,
    Lane,
)
from hydrasim.dag import Node, Templates, is_last_forward
from hydrasim.dataflow import BlockKey, fetched_keys
from hydrasim.errors import HydraError, PlanError
from hydrasim.following import Following
from hydrasim.future import Future
from hydrasim.heeding import heed
from hydrasim.mechanism import DEFAULT_EFFECTS, EFFECTS, OURS, Effects, Mechanism
from hydrasim.memory import Block
from hydrasim.precedence import Precedence
from hydrasim.progress import JobProgress
from hydrasim.recovery import Recovery, change_devices
from hydrasim.residency import Residency
from hydrasim.saving import begin_at, save_if_due, saved
from hydrasim.view import View
from hydrasim.workload import ActivationMode, ShardUnit, TrainingJob, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import networkx as nx

    from hydrasim.cluster import Cluster
    from hydrasim.plan import Plan
    from hydrasim.policies.base import Policy
    from hydrasim.profile import CostModel

_STORY_LENGTH = 3
_NUM_ELIGIBLE_KEPT = 8  # alternatives remembered for `explain`


class Orchestrator:
    """The brain of one run.

    progress: each job's progress by name. in_flight: per device, the units issued and not yet done: a running and
    a bound one, or more where a plan's units are bound in one order. following: the plan, and how far it is.
    beliefs: the costs that the policy sees; of jobs that were added, what these state. begun: at which mini-batch jobs
    go on from checkpoints.
    """

    def __init__(
        self,
        workload: Workload,
        cluster: Cluster,
        policy: Policy,
        beliefs: CostModel,
        *,
        mechanism: Mechanism = OURS,
        effects: Effects = DEFAULT_EFFECTS,
        seed: int = 0,
        dags: Mapping[str, nx.DiGraph[Node]] | None = None,
        begun: Mapping[str, int] | None = None,
    ) -> None:
        self.workload, self.cluster, self.policy, self.beliefs = workload, cluster, policy, beliefs
        if effects not in EFFECTS:
            raise HydraError(f"effects {effects!r} is unknown; there are {', '.join(EFFECTS)}.")
        self.mechanism, self.effects, self.rng = mechanism, effects, Random(seed)
        self._transfers = effects != "theory"
        if dags and self._transfers:
            raise HydraError("replaced DAGs have no data flow; simulate them with effects 'theory'.")
        templates = {job.name: Templates.of_job(job, (dags or {}).get(job.name)) for job in workload.jobs}
        self.beliefs_by_job: dict[str, CostModel] = {}  # of jobs that were added
        self.progress = {
            job.name: self.at_the_beginning(job, templates[job.name], order) for order, job in enumerate(workload.jobs)
        }
        self.in_flight: list[deque[ShardUnit]] = [deque() for _ in cluster.devices]
        plan, future = policy.plan, None
        if plan is not None:
            plan.check(workload, len(cluster.devices))
            future = Future(plan, workload, templates)
        self.residency = Residency(workload, cluster, mechanism, future) if self._transfers else None
        shares = self.residency is not None and self.residency.host.pages
        self.following = None if plan is None or future is None else Following(plan, future.order if shares else None)
        self.precedence = Precedence()
        self.recovery = Recovery(self) if mechanism.recoverable and self.residency is not None else None
        self.outstanding: dict[int, Command] = {}
        self.withdrawn: list[int] = []  # by the newest event
        self.up = [True] * len(cluster.devices)
        self.caps_devices = mechanism.cap_devices and plan is None
        self._num_issued = self.num_jobs_done = self._next_number = 0
        self._commands: list[Command] = []
        self._alternatives: tuple[ShardUnit, ...] = ()  # to the unit being bound
        self._story: deque[Command] = deque(maxlen=_STORY_LENGTH)
        self._view = View(self)
        begin_at(self, begun or {})

    @property
    def num_devices(self) -> int:
        """How many are used; a mechanism may cap them until one is lost, a plan says itself."""
        return min(len(self.cluster.devices), len(self.progress)) if self.caps_devices else len(self.cluster.devices)

    @property
    def finished(self) -> bool:
        """All jobs are trained and all their state is back in host memory, or on disk."""
        return self.num_jobs_done == len(self.progress) and not self.outstanding

    def start(self) -> list[Command]:
        """Return the commands that open the run."""
        for progress in self.progress.values():
            if progress.arrived:
                self.fetch(progress, progress.saved, set())
        self._dispatch()
        return self._take()

    def handle(self, event: Event) -> list[Command]:
        """Take one event into account and return the commands that follow from it.

        Raises:
            PolicyError: the policy chose a unit that may not run, or none although nothing runs.
        """
        self.withdrawn = []
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, DeviceLost | DeviceBack):
            change_devices(self, event)
            self._dispatch()
            return self._take()
        if not isinstance(event, Finished):
            self.heed(event)
            self._dispatch()
            return self._take()
        command = event.command
        del self.outstanding[command.number]
        if self.recovery is not None:
            self.recovery.journal.finished(command.number)
        if command.kind is Kind.COMPUTE:
            unit = command.unit
            progress = self.progress[unit.job]
            progress.finish(unit, event.end_s - event.start_s)
            self.in_flight[command.device].remove(unit)
            self.num_jobs_done += progress.finished
            self._dispatch()
        elif command.kind in (Kind.UPDATE, Kind.SAVE):
            progress = self.progress[command.unit.job]
            progress.note_host_work(-1) if command.kind is Kind.UPDATE else saved(progress)
            self._dispatch()
        if self.recovery is not None and self.recovery.restarting:
            self.recovery.restart()
            self._dispatch()
        return self._take()

    def heed(self, event: Happening) -> None:
        """Have a job begin, end, rest or go on; before the start, too.

        Raises:
            WorkloadError, HydraError: a job that is added has the name of another, or no room.
        """
        if self.following is not None and not isinstance(event, JobArrived | JobFailed):
            raise PlanError(f"job {event.job!r} was told, but a plan says what every unit does; run a policy.")
        heed(self, event)

    def beliefs_of(self, job: str) -> CostModel:
        """Return the costs of a job's units that the policy sees."""
        return self.beliefs_by_job.get(job, self.beliefs)

    def eligible(self, device: int) -> Sequence[ShardUnit]:
        """See `View.eligible`."""
        if self.following is not None:
            return self.following.eligible(device, self.progress)
        units: list[ShardUnit] = []
        for running in self.in_flight[device]:
            units += self.progress[running.job].successors(running)
        for progress in self.progress.values():
            units += progress.front()
        return units

    def _dispatch(self) -> None:
        """Serve idle devices, then let busy ones choose ahead, until nothing more can be issued."""
        ahead = self._transfers and self.mechanism.prefetch
        in_use = [device for device, up in enumerate(self.up) if up][: self.num_devices]
        again = True
        while again:
            again = False
            for busy in (0, 1) if ahead else (0,):
                for device in in_use:
                    if len(self.in_flight[device]) == busy and self._serve(device):
                        again = self.following is not None  # a unit issued here may free a step elsewhere
        idles = not any(self.in_flight) and all(self.up) and self.num_jobs_done < len(self.progress)
        if idles and all(job.arrived and not job.paused and not job.num_host_work for job in self.progress.values()):
            if self.following is not None:
                complain_of_order(self.following.plan, self.following.positions, self.progress)
            complain_of_idling(self.policy, self.progress, self.eligible(0), self._story)

    def _serve(self, device: int) -> bool:
        """Ask the policy for a unit and issue it; tell whether there was one."""
        if self.following is not None and self.following.order is not None:
            return self._serve_in_order(self.following.plan, self.following.order, device)
        eligible = self.eligible(device)
        if not eligible:
            return False
        unit = ask(self.policy, device, self._view, eligible, self._story)
        if unit is None:
            return False
        self._bind(unit, device, eligible)
        return True

    def _serve_in_order(self, plan: Plan, order: deque[ShardUnit], device: int) -> bool:
        """Bind units in the order that the plan stands for until the device has its next one.

        Others may get theirs early, so that a device never waits for one that is behind; without prefetch
        it does, since nothing may be loaded early.
        """
        while order and order[0] in self.progress[order[0].job].issuable():
            target = plan.device_of[order[0]]
            if self.in_flight[target] and not self.mechanism.prefetch:
                return False
            unit = order.popleft()
            self._bind(unit, target, (unit,))
            if target == device:
                return True
        return False

    def _bind(self, unit: ShardUnit, device: int, eligible: Sequence[ShardUnit]) -> None:
        progress = self.progress[unit.job]
        before, start = self.precedence.before(progress, unit), len(self._commands)
        if self.recovery is not None and self.residency is not None:
            before |= self.recovery.journal.elsewhere(unit.job, device)
            self.residency.host.taken_changes()
        self._alternatives = tuple(eligible[:_NUM_ELIGIBLE_KEPT])
        if self.residency is None:
            compute = self.emit(Kind.COMPUTE, Lane.COMPUTE, device, unit, before)
        else:
            compute = self.residency.bind(unit, device, before, self.emit)
        if self.following is not None:
            self.following.bound(unit, device, compute, None if self.residency is None else self.residency.evicted)
        progress.issue(unit, device, self._num_issued)
        self._num_issued += 1
        self.in_flight[device].append(unit)
        self.precedence.note_compute(unit, compute.number)
        if self.recovery is not None and self.residency is not None:
            changes, emitted = self.residency.host.taken_changes(), self._commands[start:]
            self.recovery.journal.issued(unit, device, compute, emitted, changes)
        if is_last_forward(progress.job, unit) and progress.num_fetched == unit.minibatch + 1:
            self.fetch(progress, unit.minibatch + 1, {compute.number})
        save_if_due(self, progress)

    def fetch(self, progress: JobProgress, minibatch: int, after: set[int]) -> None:
        """Have the job's loader produce a mini-batch, if it has more; the random stream makes it follow a forward."""
        job = progress.job
        if self.residency is None or minibatch == job.num_minibatches:
            return
        if self.recovery is not None:
            after = after | self.recovery.journal.before(job.name, minibatch - 1)
        progress.num_fetched += 1
        node = progress.template.nodes[progress.template.sources[0]]
        command = self.emit(Kind.FETCH, Lane.HOST, HOST, ShardUnit(job.name, *node, minibatch), after)
        self.precedence.note_fetch(job.name, command.number)
        for key in fetched_keys(job, minibatch):
            self.residency.fetched(key, command)

    def at_the_beginning(self, job: TrainingJob, templates: Templates, order: int) -> JobProgress:
        """Return the progress of a job of which nothing was issued, by what is believed."""
        beliefs, num_devices = self.beliefs_of(job.name), len(self.cluster.devices)
        return JobProgress.at_the_beginning(order, job, templates, beliefs, num_devices)

    def emit(
        self,
        kind: Kind,
        lane: Lane,
        device: int,
        unit: ShardUnit,
        after: set[int],
        block: Block | None = None,
        start: int = 0,
        nbytes: int = 0,
        places: tuple[tuple[BlockKey, int], ...] = (),
        mode: ActivationMode | None = None,
        live_bytes: int = 0,
    ) -> Command:
        key, offset = (None, 0) if block is None else (block.key, block.offset)
        mode = mode or self.progress[unit.job].job.activation_mode
        eligible = self._alternatives if kind is Kind.COMPUTE else ()
        command = Command(
            self._next_number, kind, device, lane, unit, tuple(sorted(after)), key, start, nbytes, offset, places,
            mode, eligible, live_bytes=live_bytes,
        )  # fmt: skip
        self._next_number += 1
        self.outstanding[command.number] = command
        if kind is Kind.UPDATE:
            self.progress[unit.job].note_host_work(1)
        self._commands.append(command)
        return command

    def _take(self) -> list[Command]:
        commands, self._commands = self._commands, []
        self._story.extend(commands[-_STORY_LENGTH:])
        return commands
