"""All state and boundaries in host memory: one anonymous shared file that every process maps.

A memfd has no name to leak and no size limit but memory; its pages are reserved up front, so a full
host is an error here and not a crash in a worker. State is written back to a spare region which takes
the old one's place when the write is complete: a torn write never counts.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from typing import Literal

import torch

from executor import randomness
from executor.errors import HostMemoryError
from executor.host_allocation import allocate, check_available, of_system, refused
from executor.layout import buffers_of, parameters_of
from executor.partition import Partition
from executor.prepare import Prepared
from executor.scaling import Scale
from executor.tensors import TreeSpec
from hydrasim.command import Command, Lane
from hydrasim.dataflow import BlockKey, aligned, block_bytes, home_bytes, passing_keys, state_keys
from hydrasim.workload import TrainingJob

MAX_SCALE_BYTES = 256
NUM_SCALES = 3
MAX_LOADER_BYTES = 1 << 15
MAX_NORM_BYTES = 1 << 16  # of one shard; about 20 a parameter
HEADER_BYTES = 4096  # the packed tree's shape, before a boundary's bytes
_LENGTH = struct.Struct("q")
DEVICE_LANES = (Lane.COMPUTE, Lane.H2D, Lane.D2H)
_MADV_POPULATE_WRITE = 23  # not yet a name in mmap
Place = tuple[str, str, int, int]  # kind, job or lane, shard, slot or device, parity


class StoreView:
    """The mapped file, in the parent or in a worker."""

    def __init__(self, fd: int, nbytes: int, places: dict[Place, int]) -> None:
        self.fd, self.nbytes, self.places = fd, nbytes, places
        self._map = mmap.mmap(fd, nbytes)
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)

    @property
    def allocated_bytes(self) -> int:
        """How much of the file has memory behind it, counted from its start; the rest is addresses."""
        return min(self.nbytes, os.fstat(self.fd).st_blocks * 512)

    def populate(self) -> None:
        """Map now what has memory behind it, instead of page by page in the first copies; needs Linux 5.14."""
        with suppress(OSError):
            self._map.madvise(_MADV_POPULATE_WRITE, 0, self.allocated_bytes)

    def tensor(self, offset: int, nbytes: int) -> torch.Tensor:
        """Return bytes of the store as a uint8 tensor."""
        return self._bytes[offset : offset + nbytes]

    def boundary(self, key: BlockKey) -> int:
        """Return where a boundary's region starts. Mini-batches alternate between two, since the next
        one is fetched while the backward of this one still reads its own."""
        return self.places[key.kind, key.job, key.shard, parity_of(key)]

    def write_spec(self, region: int, spec: TreeSpec) -> None:
        """Put a packed tree's shape into a region's header."""
        self._write(region, pickle.dumps(spec, protocol=pickle.HIGHEST_PROTOCOL), HEADER_BYTES)

    def read_spec(self, region: int) -> TreeSpec:
        spec: TreeSpec = pickle.loads(self._read(region))
        return spec

    def write_random(self, job: str, slot: int, minibatch: int, state: bytes) -> None:
        """Keep the job's random state before shard `slot`'s forward (after the last shard: slot S)."""
        self._write(self.places["rng", job, slot, minibatch % 2], state, randomness.MAX_BYTES)

    def read_random(self, job: str, slot: int, minibatch: int) -> bytes:
        return self._read(self.places["rng", job, slot, minibatch % 2])

    def write_loader(self, job: str, what: Literal["epoch", "orders"], evaluates: bool, state: bytes) -> None:
        """Keep what another loader of the job would go on from: how the epoch began, where its generators are."""
        self._write(self.places[what, job, int(evaluates), 0], state, MAX_LOADER_BYTES)

    def read_loader(self, job: str, what: Literal["epoch", "orders"], evaluates: bool) -> bytes:
        """Return what was kept last, nothing if nothing was."""
        return self._read(self.places[what, job, int(evaluates), 0])

    def write_norms(
        self, job: str, shard: int, minibatch: int, norms: Mapping[int, torch.Tensor], found_inf: bool = False
    ) -> None:
        """Keep the norms of a shard's gradients, by the parameter's place in the model, and whether one has an inf."""
        found = {index: (norm.dtype, norm.item()) for index, norm in norms.items()}
        self._write(self.places["norm", job, shard, minibatch % 2], pickle.dumps((found, found_inf)), MAX_NORM_BYTES)

    def read_norms(self, job: str, num_shards: int, minibatch: int) -> list[torch.Tensor]:
        """Return the norms of all shards' gradients, in the order of the model's parameters."""
        found: dict[int, tuple[torch.dtype, float]] = {}
        for shard in range(num_shards):
            found |= pickle.loads(self._read(self.places["norm", job, shard, minibatch % 2]))[0]
        return [torch.tensor(value, dtype=dtype) for _, (dtype, value) in sorted(found.items())]

    def found_inf(self, job: str, num_shards: int, minibatch: int) -> bool:
        """Tell whether a gradient of any shard has an inf, or is no number."""
        places = [self.places["norm", job, shard, minibatch % 2] for shard in range(num_shards)]
        return any(pickle.loads(self._read(place))[1] for place in places)

    def write_scale(self, job: str, step: int, scale: Scale) -> None:
        """Keep by what the losses of a step are scaled, and whether the one before was left out.

        Units of two steps may have to be run again, so there are places for three.
        """
        self._write(self.places["scale", job, 0, step % NUM_SCALES], pickle.dumps(tuple(scale)), MAX_SCALE_BYTES)

    def read_scale(self, job: str, step: int) -> Scale:
        return Scale(*pickle.loads(self._read(self.places["scale", job, 0, step % NUM_SCALES])))

    def write_doing(self, command: Command) -> None:
        """Say which command a lane begins, where it can be read when the process is gone."""
        start = self.places["doing", command.lane.value, command.device, 0]
        self._map[start : start + _LENGTH.size] = _LENGTH.pack(command.number)

    def read_doing(self, device: int, lane: Lane) -> int:
        """Return the number of the command that a lane of a device began last."""
        start = self.places["doing", lane.value, device, 0]
        number: int = _LENGTH.unpack(self._map[start : start + _LENGTH.size])[0]
        return number

    def _write(self, offset: int, data: bytes, room: int) -> None:
        if len(data) + _LENGTH.size > room:
            raise ValueError(f"{len(data)} bytes of description do not fit into {room - _LENGTH.size}.")
        self._map[offset : offset + _LENGTH.size] = _LENGTH.pack(len(data))
        self._map[offset + _LENGTH.size : offset + _LENGTH.size + len(data)] = data

    def _read(self, offset: int) -> bytes:
        (length,) = _LENGTH.unpack(self._map[offset : offset + _LENGTH.size])
        return self._map[offset + _LENGTH.size : offset + _LENGTH.size + length]


def parity_of(key: BlockKey) -> int:
    """Return which of a mini-batch's two regions a boundary has; all but loaded data have one."""
    two = key.kind in ("y", "d", "t") or (key.kind == "x" and key.shard == 0)
    return key.minibatch % 2 if two else 0


class HostStore(StoreView):
    """The parent's store: allocates regions, and knows where each shard's current state lies."""

    def __init__(self, prepared: Prepared, *, grows: bool = False) -> None:
        self._end, self._num_devices = 0, len(prepared.devices)
        self._sizes: dict[BlockKey, int] = {}
        self.location: dict[BlockKey, int] = {}
        self._spares: dict[int, list[int]] = {}
        jobs, places = prepared.workload.jobs, {}
        for job in jobs:
            self._add_places(job, places)
        for device in range(self._num_devices):
            places |= {("doing", lane.value, device, 0): self._reserve(_LENGTH.size) for lane in DEVICE_LANES}
        self._add_state(jobs)
        initial = self._end
        # Addresses only: a shard may have a store in flight for each unit in flight and one before them.
        bound = initial + sum(self._sizes.values()) * 2 * (1 + self._num_devices)
        if grows:
            bound += of_system("MemTotal")
        fd = os.memfd_create("hydrasim-store")
        try:
            os.ftruncate(fd, bound)
            allocate(fd, 0, initial)
        except OSError as reason:
            os.close(fd)
            raise refused(bound, reason) from None
        except HostMemoryError:
            os.close(fd)
            raise
        super().__init__(fd, bound, places)
        try:
            for part in prepared.partitions:
                self.write_initial(part)
        except BaseException:
            self.close()
            raise

    @property
    def reserved_bytes(self) -> int:
        """Bytes in use: state, boundaries, random states and spares."""
        return self._end

    def add(self, part: Partition, job: TrainingJob) -> dict[Place, int]:
        """Make room for one more job, and write its state there; return where its boundaries and random states are.

        Raises:
            HostMemoryError: the host has too little memory.
        """
        start, places = self._end, dict[Place, int]()
        self._add_places(job, places)
        self._add_state([job])
        allocate(self.fd, start, self._end - start)
        self.places |= places
        self.write_initial(part)
        return places

    def check_room(self, job: TrainingJob) -> None:
        """Make sure that the host has memory for one more job.

        Raises:
            HostMemoryError: it has not.
        """
        state_bytes = sum(home_bytes(job, key) for key in state_keys(job))
        check_available(2 * state_bytes + sum(HEADER_BYTES + block_bytes(job, key) for key in passing_keys(job)))

    def state_bytes(self, key: BlockKey) -> int:
        return self._sizes[key]

    def spare(self, key: BlockKey) -> int:
        """Return a region to write the next version of a shard's state to."""
        nbytes = self._sizes[key]
        free = self._spares[nbytes]
        if free:
            return free.pop()
        region = self._reserve(nbytes)
        allocate(self.fd, region, nbytes)
        return region

    def commit(self, key: BlockKey, region: int) -> None:
        """Make a completely written region the shard's current state; the old one becomes a spare."""
        self._spares[self._sizes[key]].append(self.location[key])
        self.location[key] = region

    def give_back(self, key: BlockKey, region: int) -> None:
        """Take a region back that was to become a state's next version, and will not."""
        self._spares[self._sizes[key]].append(region)

    def block(self, key: BlockKey) -> torch.Tensor:
        """Return the current bytes of a shard's state."""
        return self.tensor(self.location[key], self._sizes[key])

    def close(self) -> None:
        """Give the memory back; the mapping goes with the last tensor over it."""
        os.close(self.fd)

    def _reserve(self, nbytes: int) -> int:
        start = self._end
        self._end += aligned(nbytes)
        return start

    def _add_state(self, jobs: Sequence[TrainingJob]) -> None:
        """Reserve regions for jobs' state, and spares.

        As many as are usually in use, now: the memory for one more takes milliseconds to get ready.
        """
        sizes = {key: home_bytes(job, key) for job in jobs for key in state_keys(job)}
        self._sizes |= sizes
        self.location |= {key: self._reserve(nbytes) for key, nbytes in sizes.items()}
        for nbytes, count in Counter(sizes.values()).items():
            spares = self._spares.setdefault(nbytes, [])
            spares += [self._reserve(nbytes) for _ in range(min(count, 1 + self._num_devices) - len(spares))]

    def _add_places(self, job: TrainingJob, places: dict[Place, int]) -> None:
        """Reserve regions for what a job's units hand on, and its random states."""
        last = len(job.shards) - 1
        for what, evaluates in product(("epoch", "orders"), (0, 1)):
            places[what, job.name, evaluates, 0] = self._reserve(MAX_LOADER_BYTES)
        for parity in (0, 1):
            for slot in range(len(job.shards) + 1):
                places["rng", job.name, slot, parity] = self._reserve(randomness.MAX_BYTES)
            for kind, shard in (("x", 0), ("y", last)):
                nbytes = block_bytes(job, BlockKey(kind, job.name, shard, 0))
                places[kind, job.name, shard, parity] = self._reserve(HEADER_BYTES + nbytes)
        for shard in range(last):
            nbytes = HEADER_BYTES + block_bytes(job, BlockKey("g", job.name, shard, 0))
            places["x", job.name, shard + 1, 0] = self._reserve(nbytes)
            places["g", job.name, shard, 0] = self._reserve(nbytes)
        for key in passing_keys(job):
            if key.kind in ("a", "d", "t"):
                nbytes = HEADER_BYTES + block_bytes(job, key)
                places[key.kind, job.name, key.shard, key.minibatch] = self._reserve(nbytes)
        if job.separate_updates:
            self._add_places_of_steps(job, places)

    def _add_places_of_steps(self, job: TrainingJob, places: dict[Place, int]) -> None:
        """Reserve regions for what steps apart from backwards go by."""
        for shard in range(len(job.shards)):
            for kind in ("d", "t") if shard in job.tied_shards else ("d",):
                places.setdefault((kind, job.name, shard, 1), places[kind, job.name, shard, 0])
            for parity in (0, 1):
                places["norm", job.name, shard, parity] = self._reserve(MAX_NORM_BYTES)
        for number in range(NUM_SCALES):
            places["scale", job.name, 0, number] = self._reserve(MAX_SCALE_BYTES)

    def write_initial(self, part: Partition) -> None:
        """Write a job's state as it is before the first step."""
        if (scaling := part.job.step_options.scaling) is not None:
            self.write_scale(part.job.name, 0, scaling.first)
        source, names = part.job.source, part.job.names
        for index, layers in enumerate(part.job.shards(part.cuts)):
            block, layout = self.block(BlockKey("w", part.job.name, index, -1)), part.shards[index].layout
            parameters = parameters_of(layers)
            for parameter, slot in zip(parameters, layout.parameters, strict=True):
                on_disk = source is not None and parameter.is_meta
                slot.view(block).copy_(source.read(names[id(parameter)]) if on_disk else parameter.detach())
            for buffer, slot in zip(buffers_of(layers), layout.buffers, strict=False):
                slot.view(block).copy_(buffer)
            if layout.state:
                layout.flags(block).zero_()
            for entry in layout.state:
                state = part.job.initial_state(parameters[entry.parameter])
                if entry.key in state:
                    entry.slot.view(block).copy_(state[entry.key])
                    layout.flags(block)[entry.parameter] = 1
