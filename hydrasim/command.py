"""The words that orchestrator and backends share: commands go out, events come back."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from hydrasim.dataflow import BlockKey
from hydrasim.workload import ActivationMode, ShardUnit, TrainingJob

HOST = -1  # the `device` of commands that run on the host


class Kind(enum.Enum):
    """What a command does."""

    FETCH = "fetch"  # a job's loader produces the next mini-batch, in host memory
    LOAD = "load"  # bytes of a block, host to device
    COMPUTE = "compute"  # one shard unit
    STORE = "store"  # a block, device to host
    READ = "read"  # a block, disk to host
    WRITE = "write"  # a block, host to disk
    SEND = "send"  # bytes, device to device
    GATHER = "gather"  # one device's part of a collective
    UPDATE = "update"  # an optimizer's step on the host
    SAVE = "save"  # a job's state, from host memory to a checkpoint
    RESTORE = "restore"  # a job's state as it was at its last checkpoint, or at the beginning, to host memory

    __hash__ = object.__hash__


class Lane(enum.Enum):
    """A first-come-first-served queue: of one device, of a job's loader, of its updates on the host, of the disk."""

    H2D = "h2d"
    COMPUTE = "compute"
    D2H = "d2h"
    HOST = "host"
    PEER = "peer"
    DISK = "disk"
    UPDATE = "update"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Command:
    """One step on one lane; it starts when its lane is free and every command in `after` is done.

    `after` holds lower numbers only, and a command is issued only once its memory is reserved: with
    lanes that keep their order these two rules exclude deadlock.

    unit: the unit that the command serves. block, start, nbytes, offset: for a copy, which bytes of
    which block, and where the *block* lies in the device's arena. places: for a compute, where each
    block that it touches lies.
    eligible: for a compute, the first units that the policy could have chosen. peer: for a send, the device
    that receives.
    """

    number: int
    kind: Kind
    device: int
    lane: Lane
    unit: ShardUnit
    after: tuple[int, ...] = ()
    block: BlockKey | None = None
    start: int = 0
    nbytes: int = 0
    offset: int = 0
    places: tuple[tuple[BlockKey, int], ...] = ()
    mode: ActivationMode = "recompute"
    eligible: tuple[ShardUnit, ...] = ()
    peer: int = HOST
    live_bytes: int = 0  # for a compute: what live blocks hold of the arena once the unit is bound

    @property
    def owner(self) -> str:
        """The job whose data it is about; a copy may make room for another's unit."""
        return self.unit.job if self.block is None else self.block.job

    @property
    def lane_key(self) -> tuple[int | str, Lane]:
        """Name the queue: a device's lane, the loader or the updates of one job, or the disk."""
        of_job = self.device == HOST and self.lane is not Lane.DISK
        return (self.unit.job if of_job else self.device), self.lane

    def __str__(self) -> str:
        what = "" if self.block is None else f" {self.block}"
        return f"{self.kind.value} {self.unit}{what}"


@dataclass(frozen=True, slots=True)
class Finished:
    """A command ended; its backend says when it was issued, began and ended, in seconds since the run began."""

    command: Command
    start_s: float
    end_s: float
    issued_s: float = 0.0


@dataclass(frozen=True)
class Happening:
    """Something befell a job, so many seconds after the run began."""

    job: str
    at_s: float


class JobArrived(Happening):
    """The job was submitted."""


@dataclass(frozen=True)
class JobAdded(Happening):
    """A job that the run did not know of was submitted."""

    training_job: TrainingJob


class JobStopped(Happening):
    """The job is to end with the mini-batch at which it is."""


class JobSuspended(Happening):
    """The job is to end, for now, with the first mini-batch after which it can go on from a checkpoint."""


@dataclass(frozen=True)
class JobFailed(Happening):
    """The job cannot go on; error: why not. The others do."""

    error: Exception


class JobPaused(Happening):
    """Nothing of the job is to begin from now on."""


class JobResumed(Happening):
    """The paused job may go on."""


@dataclass(frozen=True)
class DeviceLost:
    """A device failed, so many seconds after the run began: what it held and what it was to do is gone."""

    device: int
    at_s: float


@dataclass(frozen=True)
class DeviceBack:
    """A device that was lost can be used again; its memory is empty."""

    device: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A command raised, or its device was lost, and the run cannot go on."""

    command: Command
    error: Exception


Event = Finished | Happening | DeviceLost | DeviceBack | Failed


def normal_form(commands: list[Command]) -> dict[str, list[str]]:
    """Return the commands lane by lane with numbers replaced by lane positions.

    Two backends that follow one plan interleave the lanes differently, so global numbers differ while
    what each lane does, with which dependencies and at which addresses, must not.
    """
    position: dict[int, str] = {}
    lanes: dict[str, list[str]] = {}
    for command in commands:
        owner, lane = command.lane_key
        name = f"{owner}:{lane.value}"
        entries = lanes.setdefault(name, [])
        position[command.number] = f"{name}[{len(entries)}]"
        after = ",".join(sorted(position[number] for number in command.after))
        places = ",".join(f"{key}@{offset}" for key, offset in command.places)
        span = f"{command.start}+{command.nbytes}@{command.offset}"
        entries.append(f"{command} {span} places={places} after={after}")
    return lanes
