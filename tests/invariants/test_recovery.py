"""What holds in every world whose devices fail and come back: all units are trained on, each on the newest data."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hydrasim import Timeline, simulate
from hydrasim.command import HOST, Command, DeviceBack, DeviceLost, Event, JobFailed, Kind
from hydrasim.dataflow import BlockKey, state_keys
from tests.invariants.strategies import World, worlds
from tests.invariants.symbolic import Cell, Machine, num_versions, units_of

Loss = tuple[DeviceLost, int]  # and the first command that was issued after it


class LossyMachine(Machine):
    """A symbolic machine whose devices lose what they hold; what was reported before that is known after it."""

    def __init__(self, world: World, commands: list[Command], timeline: Timeline, losses: list[Loss]) -> None:
        super().__init__(world.workload, world.cluster, commands, timeline)
        self._losses = losses
        self._saved: dict[tuple[str, int], dict[BlockKey, int]] = {}  # versions, by job and mini-batch
        self._torn: list[tuple[object, int, float]] = []

    def run(self) -> None:
        spans = self._span
        done = [command for command in self._commands if command.number in spans]
        moments = [(spans[c.number].start_s, spans[c.number].end_s, c.number, c) for c in done]
        moments += [(loss.at_s, loss.at_s, -1, loss) for loss, _ in self._losses]
        for *_, what in sorted(moments, key=lambda moment: moment[:3]):
            if isinstance(what, DeviceLost):
                self._lose(what)
            elif what.kind is Kind.RESTORE:
                self._restore(what)
            elif what.kind is Kind.SAVE:
                self._save(what)
            else:
                self._carry_out(what)

    def forget(self, job: str) -> None:
        """Ask nothing more of a job."""
        del self._jobs[job]

    def check_torn(self) -> None:
        """Nobody reads what a store may have overwritten in part when its device failed."""
        for place, minibatch, at_s in self._torn:
            for key, copies in self._uses.items():
                if (key[:3], key.minibatch % 2) == place and key.minibatch < minibatch:
                    whole = all(end_s <= at_s or start_s >= at_s for start_s, end_s in copies)
                    assert whole, f"{key} was overwritten at {at_s} s"

    def _lose(self, loss: DeviceLost) -> None:
        self._devices[loss.device] = [Cell() for _ in self._devices[loss.device]]
        for key, cells in self._host.items():
            for cell in cells:
                if key.kind == "a" and cell.label is not None and cell.label[1] == loss.device:
                    cell.label = None
        tier = [*self._host.values(), *self._devices]
        found: dict[object, int] = {}
        for cell in (cell for cells in tier for cell in cells):
            if cell.label is not None and cell.label[0].kind == "w":
                found[cell.label[0]] = max(found.get(cell.label[0], 0), cell.label[1])
        self._version.update({key: found.get(key, version) for key, version in self._version.items()})
        lane = [c for c in self._commands if c.kind is Kind.STORE and c.device == loss.device]
        first = next((n for lost, n in self._losses if lost is loss))
        before = [n for lost, n in self._losses if lost.device == loss.device and lost.at_s < loss.at_s]
        issued = range(max(before, default=0), first)  # since the device was lost last
        cut_off = [c for c in lane if c.number not in self._span and c.number in issued]
        for command in cut_off[:1]:
            assert command.block is not None
            key = command.block
            spans = [self._span.get(number) for number in command.after]
            if key.kind != "w" and all(span is not None and span.end_s <= loss.at_s for span in spans):
                for cell in self._host.get(key, []):
                    cell.label = None
                two = key.kind in ("y", "d", "t") or (key.kind == "x" and key.shard == 0)
                self._torn.append(((key[:3], key.minibatch % 2 if two else 0), key.minibatch, loss.at_s))

    def _save(self, command: Command) -> None:
        """Read all of a job's state, which must be as its mini-batches up to that one have made it."""
        job, count = self._jobs[command.unit.job], command.unit.minibatch + 1
        versions = {key: num_versions(job, key.shard, count) for key in state_keys(job)}
        for key, version in versions.items():
            for piece, cell in enumerate(self._host[key]):
                assert cell.label == (key, version, piece), f"{command} finds {cell.label}"
                self._read(cell, command)
            self._extend(key, command)
        self._saved[job.name, count] = versions

    def _restore(self, command: Command) -> None:
        job, minibatch = self._jobs[command.unit.job], command.unit.minibatch
        assert minibatch == max((at for name, at in self._saved if name == job.name), default=0)
        for cell in (cell for cells in self._devices for cell in cells):
            if cell.label is not None and cell.label[0].job == job.name:
                cell.label = None  # what was made after the checkpoint is nobody's
        for key in state_keys(job):
            self._version[key] = self._saved[job.name, minibatch][key] if minibatch else 0
            self._fill_host(key, self._version[key])
            for cell in self._host[key]:
                cell.writer = command.number
            self._occupy(key, command)

    def _ordered(self, earlier: int, later: Command) -> bool:
        end_s = self._span[earlier].end_s
        known = any(later.number >= first and end_s <= loss.at_s for loss, first in self._losses)
        again = (c for c in self._commands if c.kind is Kind.RESTORE and c.unit.job == later.unit.job)
        begun = any(earlier < c.number <= later.number and end_s <= self._span[c.number].start_s for c in again)
        return known or begun or super()._ordered(earlier, later)


@st.composite
def failing_worlds(draw: st.DrawFn) -> tuple[World, list[tuple[int, float, float]]]:
    """Draw a world without paging, and which devices fail when, in fractions of its makespan, and for how long."""
    world = draw(worlds())
    every = draw(st.sampled_from([None, 1, 2, 5]))
    mechanism = replace(world.mechanism, recoverable=True, checkpoint_every=every)
    cluster = replace(world.cluster, host_memory_bytes=None, disk=None, restart_s=draw(st.sampled_from([0.0, 1.5])))
    devices = st.integers(0, len(cluster.devices) - 1)
    losses = st.tuples(devices, st.floats(0, 1.2), st.sampled_from([0.0, 0.01, 0.3]))
    return replace(world, mechanism=mechanism, cluster=cluster), draw(st.lists(losses, min_size=1, max_size=4))


def run(
    world: World, failures: list[tuple[int, float, float]], failing: tuple[str, float] | None = None
) -> tuple[Timeline, list[Command], list[Loss]]:
    """Simulate; a device that is gone does not fail again before it is back. failing: a job that does, and when."""
    options = {name: getattr(world, name) for name in ("policy", "mechanism", "effects", "seed")}
    whole_s = simulate(world.workload, world.cluster, **options).makespan_s
    happenings: list[DeviceLost | DeviceBack | JobFailed] = []
    back_s = dict.fromkeys(range(len(world.cluster.devices)), -1.0)
    for device, fraction, away in sorted(failures, key=lambda failure: failure[1]):
        at_s = fraction * (whole_s + 1.0) + 1e-4
        if at_s > back_s[device]:
            back_s[device] = at_s + away * (whole_s + 1.0) + 1e-4
            happenings += [DeviceLost(device, at_s), DeviceBack(device, back_s[device])]
    if failing is not None:
        happenings.append(JobFailed(failing[0], failing[1] * (whole_s + 1.0), ValueError()))
    commands: list[Command] = []
    losses: list[Loss] = []

    def note(event: Event) -> None:
        if isinstance(event, DeviceLost):
            losses.append((event, len(commands)))

    timeline = simulate(
        world.workload, world.cluster, **options, happenings=happenings, commands=commands, on_event=note
    )
    return timeline, commands, losses


def check_units(world: World, timeline: Timeline) -> None:
    """The last attempts of all units are a whole run, in order."""
    for job in world.workload.jobs:
        spans = [span for span in timeline.spans if span.kind == "compute" and span.job == job.name]
        last = {span.unit: span for span in sorted(spans, key=lambda span: span.number)}
        order = sorted(last.values(), key=lambda span: (span.start_s, span.number))
        assert [span.unit for span in order] == units_of(job)
        assert all(first.end_s <= second.start_s for first, second in zip(order, order[1:], strict=False))


def check_lanes(timeline: Timeline, commands: list[Command]) -> None:
    span_of = {span.number: span for span in timeline.spans}
    for command in commands:
        if (span := span_of.get(command.number)) is not None:
            ends = [span_of[number].end_s for number in command.after if number in span_of]
            assert max(ends, default=0.0) <= span.start_s <= span.end_s < math.inf


def check_fetches(world: World, commands: list[Command], timeline: Timeline) -> None:
    """A loader is asked for every mini-batch once, in order, and after going back once more."""
    ran = {span.number for span in timeline.spans}
    for job in world.workload.jobs:
        mine = [c for c in commands if c.unit.job == job.name and c.device == HOST and c.number in ran]
        fetched: list[int] = []
        for command in mine:
            if command.kind is Kind.RESTORE:
                del fetched[command.unit.minibatch :]
            elif command.kind is Kind.FETCH:
                fetched.append(command.unit.minibatch)
        assert fetched == list(range(job.num_minibatches))


@given(failing_worlds())
def test_units_of_lost_devices_are_redone_on_the_newest_data(drawn: tuple[World, list[tuple[int, float, float]]]):
    world, failures = drawn
    timeline, commands, losses = run(world, failures)
    check_lanes(timeline, commands)
    check_units(world, timeline)
    check_fetches(world, commands, timeline)
    machine = LossyMachine(world, commands, timeline, losses)
    machine.run()
    machine.check_state_is_newest()
    machine.check_host_memory()
    machine.check_torn()


@given(failing_worlds())
def test_a_job_is_saved_once_after_every_step_that_completes_the_interval(drawn):
    world, failures = drawn
    _, commands, _ = run(world, failures)
    every = world.mechanism.checkpoint_every
    for job in world.workload.jobs:
        found = [c.unit.minibatch for c in commands if c.kind is Kind.SAVE and c.unit.job == job.name]
        schedule, wanted, count = job.schedule, set(), 0
        for minibatch in range(job.num_minibatches):
            before = count
            if schedule.steps_after(minibatch):
                count = schedule.trained_before(minibatch + 1)
            if every and (count // every > before // every or minibatch == job.num_minibatches - 1):
                wanted.add(minibatch)
        assert set(found) == wanted


@given(failing_worlds())
def test_what_is_stored_at_once_is_never_restored(drawn: tuple[World, list[tuple[int, float, float]]]):
    world, failures = drawn
    world = replace(world, mechanism=replace(world.mechanism, write_back="through"))
    _, commands, _ = run(world, failures)
    assert not [command for command in commands if command.kind is Kind.RESTORE]
