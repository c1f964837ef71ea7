"""What is to be trained: shard units, shards, jobs and workloads, all immutable."""

from __future__ import annotations

import enum
import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

from hydrasim.errors import WorkloadError
from hydrasim.fields import fields_without_seconds
from hydrasim.schedule import Schedule

JOB_NAME = re.compile(r"[A-Za-z0-9._-]+")
_UNIT = re.compile(rf"({JOB_NAME.pattern})/([FLBUE])([0-9]{{1,18}})#([0-9]{{1,18}})")

MAX_UNITS = 1 << 24  # of a simulation: each leaves a kilobyte of spans
ActivationMode = Literal["recompute", "keep", "spill"]
HostUpdates = Literal["no", "each", "all"]


class Phase(enum.Enum):
    """What a unit does with its shard."""

    FORWARD = "F"
    LOSS = "L"  # the last forward fused with its loss and its backward
    BACKWARD = "B"
    UPDATE = "U"  # the optimizer's step apart from the backward pass
    EVALUATE = "E"  # a forward in evaluation mode, of a mini-batch that nothing learns from

    # Members are singletons; identity hashing is several times faster than hashing the name.
    __hash__ = object.__hash__


class ShardUnit(NamedTuple):
    """One phase of one shard on one mini-batch; `minibatch` counts over the whole job.

    Source: the paper's shard unit, section 4.4; the text form is `job/F0#17`.
    """

    job: str
    phase: Phase
    shard: int
    minibatch: int

    def __str__(self) -> str:
        return f"{self.job}/{self.phase.value}{self.shard}#{self.minibatch}"

    @classmethod
    def parse(cls, text: str) -> ShardUnit:
        """Read the text form back.

        Raises:
            WorkloadError: the text is not of the form `job/F0#17`.
        """
        match = _UNIT.fullmatch(text)
        if match is None:
            raise WorkloadError(f"{text!r} is not a unit; write it as job/F0#17 with phase F, L, B, U or E.")
        job, phase, shard, minibatch = match.groups()
        return cls(job, Phase(phase), int(shard), int(minibatch))


@dataclass(frozen=True)
class Shard:
    """A contiguous group of layers: what it costs on a device of speed 1, and what it weighs.

    forward_s: seconds of a forward pass; backward_s: of a backward pass and its update, without
    recomputation. parameter_bytes and optimizer_bytes: the state that moves between DRAM and
    device. output_bytes: the boundary activation handed to the next shard (its gradient weighs the
    same). working_bytes: peak of activations, gradients and temporaries of the shard's costliest unit.
    activation_bytes: what a forward leaves for its backward, where it is kept or spilled. update_s, gradient_bytes: of
    a job with update units, seconds of an update, which are not in backward_s then, and what a backward leaves for it.
    forward_updates: a forward changes part of the state, as BatchNorm does its statistics; so it needs all of it.
    evaluate_s: of a job with evaluation_minibatches, seconds of a forward on one of these.
    """

    forward_s: float
    backward_s: float
    parameter_bytes: int = 0
    optimizer_bytes: int = 0
    output_bytes: int = 0
    working_bytes: int = 0
    activation_bytes: int = 0
    update_s: float = 0.0
    gradient_bytes: int = 0
    forward_updates: bool = False
    evaluate_s: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not math.isfinite(value) or value < 0:
                raise WorkloadError(f"shard: {name} is {value}; it must be finite and not negative.")

    @property
    def state_bytes(self) -> int:
        """What must be on the device to train the shard."""
        return self.parameter_bytes + self.optimizer_bytes


@dataclass(frozen=True)
class TrainingJob:
    """One model to train: its shards, how often, and the shape of its unit chain.

    minibatches: per epoch, that are trained on; max_minibatches: at most, over all epochs. evaluation_minibatches: that
    each epoch ends with, E0 .. E(S-1) of each; an epoch cut short has them too. ends_after: of all of them, those after
    which the job ends, as one that was stopped. fused: the last forward, the loss and the last backward are one L unit,
    2S-1 units a mini-batch; unfused is the paper's text, 2S units. activation_mode: whether a B unit
    recomputes its forward (from the boundary input), or finds the activations kept on its device or spilled
    to host memory; where neither is possible any more it recomputes. arrival_s: when the job is submitted.
    update_units: the optimizer steps in units of its own, U0 .. U(S-1), once all gradients are there, as clipping by
    their norm wants it. host_updates: it steps in host memory instead, on a lane of the host: for each shard once its
    gradients have been stored, or for all once all have; devices then hold parameters only. accumulate: the
    mini-batches whose gradients make up a step; what is left over makes none.
    tied_shards: those that hold a copy each of weights that layers share; tied_bytes: of the gradients of these.
    """

    name: str
    shards: tuple[Shard, ...]
    minibatches: int
    epochs: int = 1
    fused: bool = True
    activation_mode: ActivationMode = "recompute"
    input_bytes: int = 0
    target_bytes: int = 0
    fetch_s: float = 0.0
    arrival_s: float = 0.0
    update_units: bool = False
    host_updates: HostUpdates = "no"
    accumulate: int = 1
    tied_shards: tuple[int, ...] = ()
    tied_bytes: int = 0
    evaluation_minibatches: int = 0
    max_minibatches: int | None = None
    ends_after: int | None = None

    def __post_init__(self) -> None:
        if not JOB_NAME.fullmatch(self.name):
            raise WorkloadError(f"job name {self.name!r}: use letters, digits, dot, dash and underscore.")
        if not self.shards:
            raise WorkloadError(f"job {self.name!r} has no shards.")
        for name in ("minibatches", "epochs", "accumulate", "max_minibatches", "ends_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise WorkloadError(f"job {self.name!r}: {name} is {value}; it must be at least 1.")
        self._check_updates()
        self._check_ties()
        self._check_evaluation()
        for name in ("input_bytes", "target_bytes", "fetch_s", "arrival_s"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise WorkloadError(f"job {self.name!r}: {name} is {value}; it must be finite and not negative.")

    def _check_updates(self) -> None:
        if self.host_updates != "no" and self.update_units:
            raise WorkloadError(f"job {self.name!r}: has update_units and host_updates; the optimizer steps once.")
        if self.host_updates != "no" and any(shard.forward_updates for shard in self.shards):
            raise WorkloadError(
                f"job {self.name!r}: has host_updates, and shards with forward_updates, which change state on a device."
            )
        if self.accumulate > 1 and not self.separate_updates:
            raise WorkloadError(
                f"job {self.name!r}: accumulate is {self.accumulate}; that takes update_units or host_updates."
            )
        if not self.separate_updates and any(shard.update_s or shard.gradient_bytes for shard in self.shards):
            raise WorkloadError(
                f"job {self.name!r}: a shard states update_s or gradient_bytes; these are of jobs with update_units or "
                "host_updates."
            )

    def _check_ties(self) -> None:
        shards = self.tied_shards
        if not shards and not self.tied_bytes:
            return
        rising = all(low < high for low, high in pairwise((-1, *shards, len(self.shards))))
        if not (self.update_units and len(shards) > 1 and rising and self.tied_bytes > 0):
            raise WorkloadError(
                f"job {self.name!r}: tied_shards {list(shards)} and tied_bytes {self.tied_bytes}; ties take at least "
                "two of the job's shards, in rising order, bytes, and update_units."
            )

    def _check_evaluation(self) -> None:
        count = self.evaluation_minibatches
        if count < 0:
            raise WorkloadError(f"job {self.name!r}: evaluation_minibatches is {count}; it must not be negative.")
        if count and self.minibatches % self.accumulate:
            raise WorkloadError(
                f"job {self.name!r}: has evaluation_minibatches, and epochs of {self.minibatches} that do not divide "
                f"into steps of {self.accumulate} (accumulate); gradients would wait over the evaluation."
            )
        if not count and any(shard.evaluate_s for shard in self.shards):
            raise WorkloadError(
                f"job {self.name!r}: a shard states evaluate_s; it is of jobs with evaluation_minibatches."
            )

    @cached_property
    def schedule(self) -> Schedule:
        """Which mini-batches train, evaluate, and end a step."""
        return Schedule(
            self.minibatches, self.epochs, self.evaluation_minibatches, self.accumulate, self.max_minibatches,
            self.ends_after,
        )  # fmt: skip

    @property
    def num_minibatches(self) -> int:
        """Mini-batches of the whole run, those to evaluate on included."""
        return self.schedule.num_minibatches

    @property
    def separate_updates(self) -> bool:
        """Whether the optimizer steps apart from the backward, which leaves it gradients: in units, or on the host."""
        return self.update_units or self.host_updates != "no"

    @property
    def units_per_minibatch(self) -> int:
        """Units of a mini-batch's forward and backward pass; update and evaluation units come on top."""
        return 2 * len(self.shards) - (1 if self.fused else 0)

    @property
    def num_units(self) -> int:
        schedule, num_shards = self.schedule, len(self.shards)
        num_trained = schedule.num_trained
        updates = schedule.num_steps * num_shards if self.update_units else 0
        evaluations = (schedule.num_minibatches - num_trained) * num_shards
        return num_trained * self.units_per_minibatch + updates + evaluations

    def unit_s(self, phase: Phase, shard: int, mode: ActivationMode | None = None) -> float:
        """Return the stated seconds of a unit on a device of speed 1, recomputation included.

        mode: how a backward finds its activations; by default as the job says.
        """
        stated = self.shards[shard]
        if phase is Phase.UPDATE:
            return stated.update_s
        if phase is Phase.EVALUATE:
            return stated.evaluate_s
        if phase is Phase.FORWARD:
            return stated.forward_s
        if phase is Phase.LOSS or (mode or self.activation_mode) == "recompute":
            return stated.forward_s + stated.backward_s
        return stated.backward_s


@dataclass(frozen=True)
class Workload:
    """The jobs of one run, in the order in which they were submitted."""

    jobs: tuple[TrainingJob, ...]

    def __post_init__(self) -> None:
        if not self.jobs:
            raise WorkloadError("the workload has no jobs.")
        names: set[str] = set()
        for job in self.jobs:
            if job.name in names:
                raise WorkloadError(f"two jobs are named {job.name!r}; names must differ.")
            names.add(job.name)

    @cached_property
    def by_name(self) -> dict[str, TrainingJob]:
        return {job.name: job for job in self.jobs}

    def job(self, name: str) -> TrainingJob:
        """Return the job of that name.

        Raises:
            WorkloadError: there is none.
        """
        if name not in self.by_name:
            raise WorkloadError(f"no job is named {name!r}; there are {', '.join(self.by_name)}.")
        return self.by_name[name]

    @property
    def num_units(self) -> int:
        return sum(job.num_units for job in self.jobs)

    @property
    def working_bytes(self) -> int:
        """Peak memory that a device must keep free for whichever unit runs on it."""
        return max(shard.working_bytes for job in self.jobs for shard in job.shards)

    @cached_property
    def digest(self) -> str:
        """Return a short hash of all but the seconds: what a plan for this workload depends on."""
        fields = {"jobs": [fields_without_seconds(job) for job in self.jobs]}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def check_size(workload: Workload) -> None:
    """Make sure that a simulation of the workload has an end.

    Raises:
        WorkloadError: it has too many units.
    """
    if workload.num_units > MAX_UNITS:
        raise WorkloadError(
            f"the workload has {workload.num_units:,} units; at most {MAX_UNITS:,} can be simulated. "
            "Lower its minibatches or epochs."
        )
