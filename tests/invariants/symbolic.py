"""A symbolic machine: it carries out a run's commands on labelled bytes and objects to any wrong one.

Memory is cells of 64 bytes. A cell holds a label: which block, which version of it, which piece.

    device 0   | w A/0 v3 [0] | w A/0 v3 [1] | x A/1#3 [0] | ...      host   A/w0: v2 v2   A/x1#3: ...

Loads and stores copy labels, computes demand the newest labels and write newer ones. Beside the labels
each cell remembers who touched it last, so that two kinds of mistake show even where the labels happen to
be right: an access that nothing orders after a conflicting one (a race: it would be wrong under other
durations), and a range in use by two blocks at one instant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydrasim.command import HOST, Command, Kind
from hydrasim.dataflow import ALIGNMENT, BlockKey, aligned
from hydrasim.workload import Phase, ShardUnit, TrainingJob, Workload

if TYPE_CHECKING:
    from hydrasim import Cluster, Timeline
    from hydrasim.timeline import Span

Label = tuple[BlockKey, int, int]  # block, version, piece


@dataclass
class Cell:
    """label: what it holds. writer, readers: commands since the last write. owner and until_s: who uses it."""

    label: Label | None = None
    writer: int | None = None
    readers: list[int] = field(default_factory=list)
    owner: BlockKey | None = None
    until_s: float = 0.0


class Machine:
    """Host memory and the devices' arenas, all of them cells."""

    def __init__(self, workload: Workload, cluster: Cluster, commands: list[Command], timeline: Timeline) -> None:
        self._jobs = workload.by_name
        working = aligned(workload.working_bytes)
        self._num_cells = [(device.memory_bytes - working) // ALIGNMENT for device in cluster.devices]
        self._devices = [[Cell() for _ in range(count)] for count in self._num_cells]
        self._host: dict[BlockKey, list[Cell]] = {}
        self._version: dict[BlockKey, int] = {}
        self._span = {span.number: span for span in timeline.spans}
        self._commands = commands
        self._before = happens_before(commands)
        for job in workload.jobs:
            for shard in range(len(job.shards)):
                self._fill_host(BlockKey("w", job.name, shard, -1), 0)

    def run(self) -> None:
        """Carry out all commands in the order of true time."""
        spans = self._span
        for command in sorted(self._commands, key=lambda c: (spans[c.number].start_s, spans[c.number].end_s, c.number)):
            if command.kind is Kind.FETCH:
                self._fetch(command)
            elif command.kind is Kind.COMPUTE:
                self._compute(command)
            else:
                self._copy(command)

    def check_host_is_newest(self) -> None:
        """After the last mini-batch host memory must hold every shard as its last update left it."""
        for name, job in self._jobs.items():
            for shard in range(len(job.shards)):
                key = BlockKey("w", name, shard, -1)
                wanted = [(key, job.num_minibatches, piece) for piece in range(_num_pieces(job, key))]
                assert [cell.label for cell in self._host[key]] == wanted, f"the host has an old {key}"

    def _fetch(self, command: Command) -> None:
        job = self._jobs[command.unit.job]
        for key in (
            BlockKey("x", job.name, 0, command.unit.minibatch),
            BlockKey("y", job.name, len(job.shards) - 1, command.unit.minibatch),
        ):
            self._fill_host(key, command.unit.minibatch)
            for cell in self._host[key]:
                cell.writer = command.number

    def _copy(self, command: Command) -> None:
        assert command.block is not None
        key, first, count = command.block, command.start // ALIGNMENT, command.nbytes // ALIGNMENT
        assert command.start % ALIGNMENT == command.nbytes % ALIGNMENT == 0
        assert count > 0, f"{command} copies nothing"
        cells = self._range(command.device, command.offset, key)[first : first + count]
        assert len(cells) == count, f"{command} reaches beyond its block"
        if command.kind is Kind.LOAD:
            assert key in self._host, f"{command}: the host has no such block"
            for source, target in zip(self._host[key][first : first + count], cells, strict=True):
                assert source.label is not None, f"{command} loads bytes that the host never received"
                self._read(source, command)
                self._write(target, command, key, source.label)
            return
        home = self._host.setdefault(key, [Cell() for _ in range(_num_pieces(self._jobs[key.job], key))])
        for source, target in zip(cells, home[first : first + count], strict=True):
            self._read(source, command, key)
            self._write(target, command, None, source.label)

    def _compute(self, command: Command) -> None:
        unit, job, places = command.unit, self._jobs[command.unit.job], dict(command.places)
        reads, writes = needs(job, unit)
        for key, nbytes in reads:
            if nbytes:
                cells = self._range(command.device, places[key], key)[: nbytes // ALIGNMENT]
                newest = self._newest(key)
                for piece, cell in enumerate(cells):
                    assert cell.label == (key, newest, piece), f"{unit} wants {key} v{newest}, finds {cell.label}"
                    self._read(cell, command, key)
        for key in writes:
            self._version[key] = self._newest(key) + (key.kind == "w")
            if _num_pieces(job, key):
                for piece, cell in enumerate(self._range(command.device, places[key], key)):
                    self._write(cell, command, key, (key, self._newest(key), piece))

    def _newest(self, key: BlockKey) -> int:
        return self._version.get(key, 0 if key.kind == "w" else key.minibatch)

    def _range(self, device: int, offset: int, key: BlockKey) -> list[Cell]:
        first, count = offset // ALIGNMENT, _num_pieces(self._jobs[key.job], key)
        assert offset % ALIGNMENT == 0, f"{key} lies unaligned at {offset}"
        assert 0 <= first <= first + count <= self._num_cells[device], f"{key} lies outside device {device}"
        return self._devices[device][first : first + count]

    def _fill_host(self, key: BlockKey, version: int) -> None:
        count = _num_pieces(self._jobs[key.job], key)
        self._host[key] = [Cell((key, version, piece)) for piece in range(count)]

    def _read(self, cell: Cell, command: Command, owner: BlockKey | None = None) -> None:
        assert cell.writer is None or self._ordered(cell.writer, command), f"{command} races with {cell.writer}"
        cell.readers.append(command.number)
        self._use(cell, command, owner)

    def _write(self, cell: Cell, command: Command, owner: BlockKey | None, label: Label | None) -> None:
        for number in (*cell.readers, *(() if cell.writer is None else (cell.writer,))):
            assert number == command.number or self._ordered(number, command), f"{command} races with {number}"
        cell.label, cell.writer, cell.readers = label, command.number, []
        self._use(cell, command, owner)

    def _use(self, cell: Cell, command: Command, owner: BlockKey | None) -> None:
        """Check that a device cell changes hands only when its former owner's last use is over."""
        span = self._span[command.number]
        if owner is not None and cell.owner != owner:
            assert span.start_s >= cell.until_s, f"{owner} takes memory that {cell.owner} uses until {cell.until_s}"
            cell.owner = owner
        cell.until_s = max(cell.until_s, span.end_s)

    def _ordered(self, earlier: int, later: Command) -> bool:
        return bool(self._before[later.number] >> earlier & 1)


def needs(job: TrainingJob, unit: ShardUnit) -> tuple[list[tuple[BlockKey, int]], list[BlockKey]]:
    """Return what a unit must find (with the leading bytes it needs) and what it writes, from first principles."""
    shard, last, n = unit.shard, len(job.shards) - 1, unit.minibatch
    state, forward = BlockKey("w", job.name, shard, -1), unit.phase is Phase.FORWARD
    keys = [BlockKey("x", job.name, shard, n)]
    if shard == last:
        keys.append(BlockKey("y", job.name, shard, n))
    elif not forward:
        keys.append(BlockKey("g", job.name, shard, n))
    whole = _num_pieces(job, state) * ALIGNMENT
    reads = [(state, aligned(job.shards[shard].parameter_bytes) if forward else whole)]
    reads += [(key, _num_pieces(job, key) * ALIGNMENT) for key in keys]
    if forward:
        return reads, [] if shard == last else [BlockKey("x", job.name, shard + 1, n)]
    return reads, [state] + ([] if shard == 0 else [BlockKey("g", job.name, shard - 1, n)])


def happens_before(commands: list[Command]) -> dict[int, int]:
    """Return, as bits of one number a command, the commands that end before it starts under any durations."""
    before: dict[int, int] = {}
    lane_tail: dict[object, int] = {}
    for command in commands:
        bits = 0
        for number in (*command.after, *filter(lambda n: n is not None, [lane_tail.get(command.lane_key)])):
            bits |= before[number] | 1 << number
        before[command.number] = bits
        lane_tail[command.lane_key] = command.number
    return before


def spans_by_lane(timeline: Timeline) -> dict[tuple[int | str, str], list[Span]]:
    """Return each lane's spans in the order in which its commands were submitted."""
    lanes: dict[tuple[int | str, str], list[Span]] = {}
    for span in sorted(timeline.spans, key=lambda span: span.number):
        lanes.setdefault((span.job if span.device == HOST else span.device, span.lane), []).append(span)
    return lanes


def _num_pieces(job: TrainingJob, key: BlockKey) -> int:
    """Return a block's size in cells, from the job's stated bytes."""
    shard = job.shards[key.shard]
    stated = {
        "w": (shard.parameter_bytes, shard.optimizer_bytes),
        "y": (job.target_bytes,),
        "g": (shard.output_bytes,),
        "x": (job.input_bytes if key.shard == 0 else job.shards[key.shard - 1].output_bytes,),
    }[key.kind]
    return sum(-(-nbytes // ALIGNMENT) for nbytes in stated)
