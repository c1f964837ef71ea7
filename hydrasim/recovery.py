"""What a lost device costs: the units that were issued and whose results are not yet in host memory.

    d2h lane            | x1 |    | x2 |  ...            d is lost
    device d    F0 ===== | F1 ===== | F2 =====| L3 ..  --X
    durable        F0 ........  F1 ...         ^ F2's output is on its way: F2 and L3 are issued again, elsewhere

Stores of a device go in order, a unit's boundaries before its state. So what is not durable of a job is the end of its
chain, all of it on one device, but for a unit bound to another one that waits there for it; and a state that was
committed is one whose unit needs nothing more. That rests on two rules, which a recoverable mechanism adds: a unit on
another device begins when all that the units before it changed is stored, and a mini-batch is fetched into the places
of the one before the last when that is durable.

A job whose newest state lay on the device alone, to be stored later, begins again at its last checkpoint.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.command import HOST, Command, DeviceBack, DeviceLost, Kind, Lane
from hydrasim.dataflow import fetched_keys
from hydrasim.errors import HydraError
from hydrasim.saving import not_saved
from hydrasim.workload import ShardUnit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hydrasim.homes import Changes
    from hydrasim.orchestrator import Orchestrator
    from hydrasim.progress import JobProgress


@dataclass(slots=True)
class Attempt:
    """A unit that was issued. numbers: its compute and the stores of what it made, as far as they are not done.

    commands: all that was issued for it, and for it alone. changes: what binding it did to the homes of blocks.
    """

    unit: ShardUnit
    device: int
    compute: int
    numbers: set[int]
    commands: tuple[Command, ...]
    changes: Changes


class Journal:
    """The attempts of every job that are not durable yet, in order."""

    def __init__(self) -> None:
        self._attempts: dict[str, deque[Attempt]] = {}
        self._of: dict[int, Attempt] = {}

    def issued(
        self, unit: ShardUnit, device: int, compute: Command, emitted: Iterable[Command], changes: Changes
    ) -> None:
        """Note a unit that was bound, with all commands that this took; stores before its compute are evictions'."""
        own = tuple(
            command
            for command in emitted
            if command.kind in (Kind.LOAD, Kind.COMPUTE, Kind.UPDATE)
            or (command.kind is Kind.STORE and command.number > compute.number)
        )
        numbers = {command.number for command in own if command.kind in (Kind.COMPUTE, Kind.STORE)}
        attempt = Attempt(unit, device, compute.number, numbers, own, changes)
        self._attempts.setdefault(unit.job, deque()).append(attempt)
        self._of.update(dict.fromkeys(numbers, attempt))

    def finished(self, number: int) -> None:
        """Note that a command is done."""
        attempt = self._of.pop(number, None)
        if attempt is None:
            return
        attempt.numbers.discard(number)
        attempts = self._attempts[attempt.unit.job]
        while attempts and not attempts[0].numbers:
            attempts.popleft()

    def elsewhere(self, job: str, device: int) -> set[int]:
        """Return what a job's next unit on a device has to wait for: all that is not done of its units on others."""
        attempts = self._attempts.get(job, ())
        return {number for attempt in attempts if attempt.device != device for number in attempt.numbers}

    def before(self, job: str, minibatch: int) -> set[int]:
        """Return what is not done of a job's units of mini-batches before one."""
        attempts = self._attempts.get(job, ())
        return {number for attempt in attempts if attempt.unit.minibatch < minibatch for number in attempt.numbers}

    def forget(self, job: str) -> None:
        """Have no attempts of a job."""
        for attempt in self._attempts.pop(job, ()):
            for number in attempt.numbers:
                del self._of[number]

    def lose(self, device: int) -> list[Sequence[Attempt]]:
        """Forget the attempts that a lost device undoes, and return them, each job's from the newest to the oldest."""
        undone: list[Sequence[Attempt]] = []
        for job, attempts in self._attempts.items():
            of_device = (place for place, one in enumerate(attempts) if one.device == device and one.numbers)
            first = next(of_device, None)
            if first is not None:
                kept, gone = list(attempts)[:first], list(attempts)[first:]
                self._attempts[job] = deque(kept)
                undone.append(gone[::-1])
                for number in {number for attempt in gone for number in attempt.numbers}:
                    del self._of[number]
        return undone


def change_devices(run: Orchestrator, event: DeviceLost | DeviceBack) -> None:
    """Have a run go on without a device, or with it again.

    Raises:
        HydraError: its mechanism cannot recover.
    """
    run.up[event.device] = isinstance(event, DeviceBack)
    if isinstance(event, DeviceLost):
        run.caps_devices = False  # jobs may be bound to any by now
        pages = run.residency is not None and run.residency.host.pages
        if run.recovery is None or run.following is not None or pages:
            raise HydraError(
                f"device {event.device} is lost; that takes a recoverable mechanism, a policy instead of a plan, and "
                "host memory for all state."
            )
        run.withdrawn = run.recovery.lose(event.device)


class Recovery:
    """Has a run go on without a device. restarting: jobs that begin again once nothing of theirs is under way."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._run = orchestrator
        self.journal = Journal()
        self.restarting: set[str] = set()

    def lose(self, device: int) -> list[int]:
        """Undo what a lost device had not finished; return the commands on others that are not to begin any more."""
        run = self._run
        assert run.residency is not None
        lost = {number: command for number, command in run.outstanding.items() if command.device == device}
        withdrawn: set[int] = set()
        for attempts in self.journal.lose(device):
            withdrawn |= self._undo(attempts)
        withdrawn |= self._withdraw_from_loaders(withdrawn | lost.keys())
        withdrawn -= lost.keys()
        gone = withdrawn | lost.keys()
        stores = [command.block for command in lost.values() if command.kind is Kind.STORE and command.block]
        self.restarting |= run.residency.lose(device, gone, stores)
        for number in gone:
            del run.outstanding[number]
        for name in self.restarting:
            run.progress[name].pause(True)
        self.restart()
        return sorted(withdrawn)

    def forget(self, job: str) -> None:
        """Have a job never begin again."""
        self.journal.forget(job)
        self.restarting.discard(job)

    def restart(self) -> None:
        """Have jobs begin again of which nothing is under way any more."""
        for name in sorted(self.restarting):
            busy = (c for c in self._run.outstanding.values() if name in (c.unit.job, c.block and c.block.job))
            if next(busy, None) is None:
                self.restarting.discard(name)
                self._begin_again(self._run.progress[name])

    def _undo(self, attempts: Sequence[Attempt]) -> set[int]:
        """Undo a job's attempts; return those of their commands that are outstanding."""
        run = self._run
        assert run.residency is not None
        progress = run.progress[attempts[0].unit.job]
        was_finished, outstanding = progress.finished, set[int]()
        for attempt in attempts:
            own = {command.number: command for command in attempt.commands if command.number in run.outstanding}
            outstanding |= own.keys()
            run.residency.undo(attempt, set(own))
            run.precedence.forget(attempt.unit)
            if attempt.compute in own:
                run.in_flight[attempt.device].remove(attempt.unit)
            for command in own.values():
                if command.kind is Kind.UPDATE:
                    progress.note_host_work(-1)
        progress.rewind([attempt.unit for attempt in attempts], [attempt.device for attempt in attempts])
        run.num_jobs_done -= was_finished
        return outstanding

    def _withdraw_from_loaders(self, gone: set[int]) -> set[int]:
        """Return the fetches and saves that were to follow what is gone; loaders were not asked for them yet."""
        run, withdrawn = self._run, set[int]()
        assert run.residency is not None
        for number, command in sorted(run.outstanding.items()):
            if command.kind not in (Kind.FETCH, Kind.SAVE) or not (gone | withdrawn).intersection(command.after):
                continue
            withdrawn.add(number)
            progress = run.progress[command.unit.job]
            if command.kind is Kind.SAVE:
                not_saved(progress)
                continue
            progress.num_fetched -= 1
            for key in fetched_keys(progress.job, command.unit.minibatch):
                run.residency.host.forget(key)
        return withdrawn

    def _begin_again(self, progress: JobProgress) -> None:
        """Have a job's state be as it was at its last checkpoint, and its units issued from there on."""
        run, job = self._run, progress.job
        assert run.residency is not None
        run.num_jobs_done -= progress.finished
        progress.restart()
        node = progress.template.nodes[progress.template.sources[0]]
        command = run.emit(Kind.RESTORE, Lane.HOST, HOST, ShardUnit(job.name, *node, progress.saved), set())
        run.residency.reset(job, command.number)
        progress.pause(False)
        run.num_jobs_done += progress.finished
        run.fetch(progress, progress.saved, {command.number})
