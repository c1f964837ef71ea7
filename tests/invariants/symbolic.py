"""A symbolic machine: it carries out a run's commands on labelled bytes and objects to any wrong one.

Memory is cells of 64 bytes. A cell holds a label: which block, which version of it, which piece.

    device 0   | w A/0 v3 [0] | w A/0 v3 [1] | x A/1#3 [0] | ...      host   A/w0: v2 v2   A/x1#3: ...
                                                                      disk   A/w0: v1 v1

Loads and stores copy labels, and so do reads and writes; computes demand the newest labels and write newer ones.
The version of activations is the device that made them: of no use to another one. Host memory is in use by a copy
from what writes it to the last that reads it, and by the newest state for ever unless the disk has it. Beside labels
each cell remembers who touched it last, so that two kinds of mistake show even where the labels happen to
be right: an access that nothing orders after a conflicting one (a race: it would be wrong under other
durations), and a range in use by two blocks at one instant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydrasim.command import HOST, Command, Kind
from hydrasim.dag import Template, minibatch_dag
from hydrasim.dataflow import ALIGNMENT, BlockKey, aligned
from hydrasim.workload import ActivationMode, Phase, ShardUnit, TrainingJob, Workload

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
    """Disk, host memory and the devices' arenas, all of them cells."""

    def __init__(self, workload: Workload, cluster: Cluster, commands: list[Command], timeline: Timeline) -> None:
        self._jobs = dict(workload.by_name)
        working = aligned(workload.working_bytes)
        self._num_cells = [(device.memory_bytes - working) // ALIGNMENT for device in cluster.devices]
        self._devices = [[Cell() for _ in range(count)] for count in self._num_cells]
        self._host: dict[BlockKey, list[Cell]] = {}
        self._disk: dict[BlockKey, list[Cell]] = {}
        self._host_memory_bytes = cluster.host_memory_bytes
        self._uses: dict[BlockKey, list[list[float]]] = {}  # [start_s, end_s] of each copy in host memory
        self._version: dict[BlockKey, int] = {}
        self._span = {span.number: span for span in timeline.spans}
        self._commands = commands
        self._before = happens_before(commands)
        states = [
            (job, BlockKey("w", job.name, shard, -1)) for job in workload.jobs for shard in range(len(job.shards))
        ]
        needed = sum(_num_pieces(job, key) * ALIGNMENT for job, key in states) + sum(map(passing_bytes, workload.jobs))
        on_disk = cluster.host_memory_bytes is not None and needed > cluster.host_memory_bytes
        for job, key in states:
            if on_disk:
                self._disk[key] = [Cell((key, 0, piece)) for piece in range(_num_pieces(job, key))]
            else:
                self._fill_host(key, 0)
                self._uses[key] = [[0.0, 0.0]]

    def run(self) -> None:
        """Carry out all commands in the order of true time."""
        spans = self._span
        for command in sorted(self._commands, key=lambda c: (spans[c.number].start_s, spans[c.number].end_s, c.number)):
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        if command.kind is Kind.FETCH:
            self._fetch(command)
        elif command.kind is Kind.COMPUTE:
            self._compute(command)
        elif command.kind is Kind.UPDATE:
            self._update(command)
        elif command.kind in (Kind.READ, Kind.WRITE):
            self._page(command)
        else:
            self._copy(command)

    def check_state_is_newest(self) -> None:
        """After the last mini-batch host memory or disk must hold every shard as its last update left it."""
        for name, job in self._jobs.items():
            for shard in range(len(job.shards)):
                key = BlockKey("w", name, shard, -1)
                wanted = [(key, num_versions(job, shard), piece) for piece in range(_num_pieces(job, key))]
                found = [[cell.label for cell in tier.get(key, [])] for tier in (self._host, self._disk)]
                assert wanted in found, f"host memory has an old {key}"
                if found[1] != wanted:
                    self._uses[key][-1][1] = math.inf

    def check_host_memory(self) -> None:
        """State in host memory never exceeds the room beside the other blocks, each of which has a place of its own.

        There one mini-batch's data follow the last one's; loaders have two places to alternate between.
        """
        limit = math.inf if self._host_memory_bytes is None else self._host_memory_bytes
        room = limit - sum(map(passing_bytes, self._jobs.values()))
        edges: dict[object, list[tuple[float, int]]] = {}
        for key, copies in self._uses.items():
            nbytes = _num_pieces(self._jobs[key.job], key) * ALIGNMENT
            two = key.kind in ("y", "d", "t") or (key.kind == "x" and key.shard == 0)
            place = "state" if key.kind == "w" else (key[:3], key.minibatch % 2 if two else 0)
            for start_s, end_s in copies:
                if start_s < end_s:
                    edges.setdefault(place, []).extend([(start_s, nbytes), (end_s, -nbytes)])
        for place, changes in edges.items():
            used, most = 0, room if place == "state" else max(nbytes for _, nbytes in changes)
            for at_s, change in sorted(changes):
                used += change
                assert used <= most, f"host memory holds {used} bytes of {place} at {at_s} s"

    def _fetch(self, command: Command) -> None:
        job = self._jobs[command.unit.job]
        for key in (
            BlockKey("x", job.name, 0, command.unit.minibatch),
            BlockKey("y", job.name, len(job.shards) - 1, command.unit.minibatch),
        ):
            self._fill_host(key, command.unit.minibatch)
            for cell in self._host[key]:
                cell.writer = command.number
            self._occupy(key, command)

    def _page(self, command: Command) -> None:
        """Copy the whole of a state between host memory and disk."""
        key = command.block
        assert key is not None
        assert key.kind == "w", f"{command}: only state goes to disk"
        count = _num_pieces(self._jobs[key.job], key)
        assert (command.device, command.start, command.nbytes) == (HOST, 0, count * ALIGNMENT)
        reads = command.kind is Kind.READ
        source, target = (self._disk, self._host) if reads else (self._host, self._disk)
        cells = target.setdefault(key, [Cell() for _ in range(count)])
        for old, new in zip(source[key], cells, strict=True):
            self._read(old, command)
            self._write(new, command, None, old.label)
        if reads:
            self._occupy(key, command)
        else:
            self._extend(key, command)

    def _update(self, command: Command) -> None:
        """Step in host memory: on the newest state there, and on all gradients of its mini-batch that it wants."""
        unit = command.unit
        job, key = self._jobs[unit.job], BlockKey("w", unit.job, unit.shard, -1)
        assert job.host_updates != "no"
        assert (command.block, command.device, command.start) == (key, HOST, 0)
        assert command.nbytes == _num_pieces(job, key) * ALIGNMENT
        wanted = range(len(job.shards)) if job.host_updates == "all" else [unit.shard]
        for shard in wanted:
            gradients = BlockKey("d", unit.job, shard, unit.minibatch)
            for piece, cell in enumerate(self._host[gradients] if job.shards[shard].gradient_bytes else ()):
                assert cell.label == (gradients, unit.minibatch, piece), f"{command} finds {cell.label}"
                self._read(cell, command)
            if job.shards[shard].gradient_bytes:
                self._extend(gradients, command)
        for piece, cell in enumerate(self._host.get(key, [])):
            assert cell.label == (key, self._newest(key), piece), f"{command} finds {cell.label}"
            self._write(cell, command, None, (key, self._newest(key) + 1, piece))
        self._version[key] = self._newest(key) + 1
        if self._host.get(key):
            self._extend(key, command)

    def _occupy(self, key: BlockKey, command: Command) -> None:
        """Begin a copy in host memory."""
        span = self._span[command.number]
        self._uses.setdefault(key, []).append([span.start_s, span.end_s])

    def _extend(self, key: BlockKey, command: Command) -> None:
        """Have the newest copy in host memory last until the command ends."""
        copy = self._uses[key][-1]
        copy[1] = max(copy[1], self._span[command.number].end_s)

    def _copy(self, command: Command) -> None:
        assert command.block is not None
        key, first, count = command.block, command.start // ALIGNMENT, command.nbytes // ALIGNMENT
        assert command.start % ALIGNMENT == command.nbytes % ALIGNMENT == 0
        assert count > 0, f"{command} copies nothing"
        cells = self._range(command.device, command.offset, key)[first : first + count]
        assert len(cells) == count, f"{command} reaches beyond its block"
        assert key.kind != "a" or self._jobs[key.job].activation_mode == "spill", f"{command} moves what is kept"
        if command.kind is Kind.LOAD:
            assert key in self._host, f"{command}: the host has no such block"
            self._extend(key, command)
            for source, target in zip(self._host[key][first : first + count], cells, strict=True):
                assert source.label is not None, f"{command} loads bytes that the host never received"
                self._read(source, command)
                self._write(target, command, key, source.label)
            return
        home = self._host.setdefault(key, [Cell() for _ in range(_num_pieces(self._jobs[key.job], key))])
        if count == len(home):
            self._occupy(key, command)
        else:
            self._extend(key, command)
        for source, target in zip(cells, home[first : first + count], strict=True):
            self._read(source, command, key)
            self._write(target, command, None, source.label)

    def _compute(self, command: Command) -> None:
        unit, job, places = command.unit, self._jobs[command.unit.job], dict(command.places)
        reads, writes = needs(job, unit, command.mode)
        for key, nbytes in reads:
            if nbytes:
                cells = self._range(command.device, places[key], key)[: nbytes // ALIGNMENT]
                newest = self._newest(key) if key.kind != "a" else command.device
                for piece, cell in enumerate(cells):
                    assert cell.label == (key, newest, piece), f"{unit} wants {key} v{newest}, finds {cell.label}"
                    self._read(cell, command, key)
        for key in writes:
            self._version[key] = self._newest(key) + (key.kind == "w") if key.kind != "a" else command.device
            if _num_pieces(job, key):
                for piece, cell in enumerate(self._range(command.device, places[key], key)):
                    self._write(cell, command, key, (key, self._newest(key), piece))

    def _newest(self, key: BlockKey) -> int:
        return self._version.get(key, 0 if key.kind == "w" else key.minibatch)

    def _range(self, device: int, offset: int, key: BlockKey) -> list[Cell]:
        first, count = offset // ALIGNMENT, _num_pieces_on_device(self._jobs[key.job], key)
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


def needs(job: TrainingJob, unit: ShardUnit, mode: ActivationMode) -> tuple[list[tuple[BlockKey, int]], list[BlockKey]]:
    """Return what a unit must find (with the leading bytes it needs) and what it writes, from first principles."""
    shard, last, n = unit.shard, len(job.shards) - 1, unit.minibatch
    state, forward = BlockKey("w", job.name, shard, -1), unit.phase is Phase.FORWARD
    whole = _num_pieces_on_device(job, state) * ALIGNMENT
    if unit.phase is Phase.EVALUATE:
        return _needs_to_evaluate(job, shard, n, whole)
    if unit.phase is Phase.UPDATE:
        return _needs_to_update(job, shard, n, whole)
    keys = [BlockKey("x", job.name, shard, n)]
    if shard == last:
        keys.append(BlockKey("y", job.name, shard, n))
    elif not forward:
        keys.append(BlockKey("g", job.name, shard, n))
    kept = []
    if unit.phase is Phase.LOSS or not job.shards[shard].activation_bytes:
        assert mode == job.activation_mode, f"{unit} has nothing to keep, yet its mode is {mode}"
    elif mode != "recompute":
        assert mode == job.activation_mode, f"{unit} runs in mode {mode}, its job in {job.activation_mode}"
        kept = [BlockKey("a", job.name, shard, n)]
    keys += [] if forward else _added_to(job, shard, n)
    leading = aligned(job.shards[shard].parameter_bytes)
    passes = job.shards[shard].forward_updates and unit.phase is not Phase.BACKWARD
    reads = [(state, whole if passes or not (forward or job.separate_updates) else leading)]
    reads += [(key, _num_pieces(job, key) * ALIGNMENT) for key in (*keys, *([] if forward else kept))]
    if forward:
        made = [state] if passes else []
        return reads, made + ([] if shard == last else [BlockKey("x", job.name, shard + 1, n)]) + kept
    made = [BlockKey("d", job.name, shard, n)] if job.separate_updates else []
    if shard in job.tied_shards:
        made.append(BlockKey("t", job.name, shard, n))
    if passes or not job.separate_updates:
        made.append(state)
    return reads, made + ([] if shard == 0 else [BlockKey("g", job.name, shard - 1, n)])


def _needs_to_update(
    job: TrainingJob, shard: int, n: int, whole: int
) -> tuple[list[tuple[BlockKey, int]], list[BlockKey]]:
    assert job.update_units
    state, gradients = BlockKey("w", job.name, shard, -1), [BlockKey("d", job.name, shard, n)]
    if shard in job.tied_shards:
        gradients.append(BlockKey("t", job.name, min(job.tied_shards), n))
    return [(state, whole), *((key, _num_pieces(job, key) * ALIGNMENT) for key in gradients)], [state]


def _needs_to_evaluate(
    job: TrainingJob, shard: int, n: int, whole: int
) -> tuple[list[tuple[BlockKey, int]], list[BlockKey]]:
    last, state, inputs = len(job.shards) - 1, BlockKey("w", job.name, shard, -1), BlockKey("x", job.name, shard, n)
    keys = [inputs, BlockKey("y", job.name, shard, n)] if shard == last else [inputs]
    need = whole if job.shards[shard].forward_updates else aligned(job.shards[shard].parameter_bytes)
    reads = [(state, need), *((key, _num_pieces(job, key) * ALIGNMENT) for key in keys)]
    return reads, [] if shard == last else [inputs._replace(shard=shard + 1)]


def _added_to(job: TrainingJob, shard: int, n: int) -> list[BlockKey]:
    """Return the gradients that a backward adds to: of earlier mini-batches, and of tied weights in shards above."""
    earlier = ["d"] if job.separate_updates and sum(trains(job)[:n]) % job.accumulate else []
    if earlier and shard == min(job.tied_shards, default=None):
        earlier.append("t")
    keys = [BlockKey(kind, job.name, shard, n - 1) for kind in earlier]
    if shard in job.tied_shards:
        above = sorted(other for other in job.tied_shards if other > shard)[:1]
        keys += [BlockKey("t", job.name, other, n) for other in above]
    return keys


def trains(job: TrainingJob) -> list[bool]:
    """Tell of each mini-batch whether it is trained on, by the loop that a job stands for."""
    found: list[bool] = []
    for _ in range(job.epochs):
        left = math.inf if job.max_minibatches is None else job.max_minibatches - sum(found)
        if left:
            found += [True] * min(job.minibatches, left) + [False] * job.evaluation_minibatches
    return found


def units_of(job: TrainingJob) -> list[str]:
    """Return all units of a job in their order."""
    nodes = [(n, node) for n in range(job.num_minibatches) for node in Template(minibatch_dag(job, n)).nodes]
    return [str(ShardUnit(job.name, *node, n)) for n, node in nodes]


def num_versions(job: TrainingJob, shard: int, num_minibatches: int | None = None) -> int:
    """Return how often a shard's state is changed: by steps, and by forwards, of which an L with a step is one.

    num_minibatches: by the first ones alone.
    """
    num_trained = sum(trains(job)[:num_minibatches])
    steps = num_trained // job.accumulate
    if job.host_updates != "no":
        return steps if job.shards[shard].gradient_bytes else 0
    if not job.shards[shard].forward_updates:
        return steps
    at_once = job.fused and shard == len(job.shards) - 1 and not job.update_units
    return num_trained if at_once else num_trained + steps


def passing_bytes(job: TrainingJob) -> int:
    """Return what a job's blocks with a place in host memory take there, state aside."""
    last, n = len(job.shards) - 1, min(2, job.num_minibatches)
    kinds = {"x": [0] * n + list(range(1, last + 1)), "g": range(last), "y": [last] * n}
    if job.activation_mode == "spill":
        kinds["a"] = range(last + (not job.fused))
    if job.separate_updates:
        kinds["d"] = list(range(last + 1)) * min(n, job.accumulate)
        kinds["t"] = [*job.tied_shards, *job.tied_shards[: min(n, job.accumulate) - 1]]
    cells = sum(_num_pieces(job, BlockKey(kind, job.name, shard, 0)) for kind in kinds for shard in kinds[kind])
    return cells * ALIGNMENT


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
        lanes.setdefault(span.lane_key, []).append(span)
    return lanes


def _num_pieces_on_device(job: TrainingJob, key: BlockKey) -> int:
    """Return a block's size in cells where optimizers' state stays in host memory, if it does."""
    if key.kind == "w" and job.host_updates != "no":
        return -(-job.shards[key.shard].parameter_bytes // ALIGNMENT)
    return _num_pieces(job, key)


def _num_pieces(job: TrainingJob, key: BlockKey) -> int:
    """Return a block's size in cells, from the job's stated bytes."""
    shard = job.shards[key.shard]
    stated = {
        "w": (shard.parameter_bytes, shard.optimizer_bytes),
        "y": (job.target_bytes,),
        "a": (shard.activation_bytes,),
        "d": (shard.gradient_bytes,),
        "t": (job.tied_bytes,),
        "g": (shard.output_bytes,),
        "x": (job.input_bytes if key.shard == 0 else job.shards[key.shard - 1].output_bytes,),
    }[key.kind]
    return sum(-(-nbytes // ALIGNMENT) for nbytes in stated)
