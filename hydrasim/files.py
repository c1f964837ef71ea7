"""The door: every file is read, checked once, and turned into the project's own types here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic import ValidationError

from hydrasim.cluster import Cluster, Device, Link
from hydrasim.errors import ClusterError, HydraError, ProfileError, WorkloadError
from hydrasim.profile import KindProfile, Measurement, Profile
from hydrasim.workload import ActivationMode, Phase, Shard, TrainingJob, Workload

MAX_FILE_BYTES = 1 << 30

Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardFile(_Strict):
    """A shard as a file states it; see `hydrasim.workload.Shard` for the meaning of each field."""

    forward_s: NonNegativeFloat
    backward_s: NonNegativeFloat
    parameter_bytes: NonNegativeInt = 0
    optimizer_bytes: NonNegativeInt = 0
    output_bytes: NonNegativeInt = 0
    working_bytes: NonNegativeInt = 0


class JobFile(_Strict):
    """A job as a file states it; `repeat` writes its shard list that many times over."""

    name: str
    shards: list[ShardFile] = Field(min_length=1)
    repeat: PositiveInt = 1
    minibatches: PositiveInt
    epochs: PositiveInt = 1
    fused: bool = True
    activation_mode: ActivationMode = "recompute"
    input_bytes: NonNegativeInt = 0
    target_bytes: NonNegativeInt = 0
    fetch_s: NonNegativeFloat = 0.0


class WorkloadFile(_Strict):
    version: Literal[1] = 1
    jobs: list[JobFile] = Field(min_length=1)


class LinkFile(_Strict):
    bytes_per_s: float = Field(default=float("inf"), gt=0)
    latency_s: NonNegativeFloat = 0.0


class DeviceFile(_Strict):
    memory_bytes: PositiveInt
    count: PositiveInt = 1
    speed: float = Field(default=1.0, gt=0)
    h2d: LinkFile = LinkFile()
    d2h: LinkFile = LinkFile()
    kind: str = "simulated"


class ClusterFile(_Strict):
    version: Literal[1] = 1
    devices: list[DeviceFile] = Field(min_length=1)


class StepFile(_Strict):
    unit: str
    mode: ActivationMode = "recompute"
    offset: NonNegativeInt | None = None
    evict: list[str] = []


class PlanFile(_Strict):
    version: Literal[1]
    workload: str
    cluster: str
    profile: str = ""
    policy: str = ""
    makespan_s: NonNegativeFloat | None = None
    devices: list[list[StepFile]]


class TimelineHeader(BaseModel):
    """The first line of a timeline; further fields are kept as they are."""

    model_config = ConfigDict(extra="allow")
    version: Literal[1]


class SpanFile(_Strict):
    number: NonNegativeInt
    kind: Literal["fetch", "load", "compute", "store"]
    device: int = Field(ge=-1)
    lane: Literal["h2d", "compute", "d2h", "host"]
    unit: str
    start_s: FiniteFloat
    end_s: FiniteFloat
    block: str = ""
    nbytes: NonNegativeInt = 0
    after: tuple[NonNegativeInt, ...] = ()
    eligible: tuple[str, ...] = ()


class MeasurementFile(_Strict):
    median_s: NonNegativeFloat
    spread_fraction: NonNegativeFloat
    num_samples: PositiveInt


class UnitFile(MeasurementFile):
    job: str
    phase: Literal["F", "L", "B"]
    shard: NonNegativeInt


class CopyFile(MeasurementFile):
    nbytes: NonNegativeInt


class KindFile(_Strict):
    units: list[UnitFile]
    copies: dict[Literal["h2d", "d2h"], list[CopyFile]]


class ProfileFile(_Strict):
    version: Literal[1]
    workload: WorkloadFile
    kinds: dict[str, KindFile]
    fetches: dict[str, MeasurementFile]
    provenance: dict[str, Any] = {}


def read_text(path: Path, error: type[HydraError]) -> str:
    """Read a text file, or raise `error` with a sentence that says what is wrong with it."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise error(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB; this is no file of ours.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise error(f"cannot read {path}: {getattr(reason, 'strerror', None) or reason}.") from None


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as reason:
        temporary.unlink(missing_ok=True)
        raise HydraError(f"cannot write {path}: {reason.strerror}.") from None


def parse_line(path: Path, number: int, line: str, model: type[Model], error: type[HydraError]) -> Model:
    """Check one line of JSON."""
    try:
        return model.model_validate_json(line)
    except ValidationError as reason:
        raise error(f"{path}, line {number}: {_first(reason)}") from None


def read_json(path: Path, model: type[Model], error: type[HydraError]) -> Model:
    """Read and check a JSON file."""
    try:
        return model.model_validate_json(read_text(path, error))
    except ValidationError as reason:
        raise error(f"{path}: {_first(reason)}") from None


def read_workload(path: Path) -> Workload:
    """Read a YAML or JSON workload file.

    Raises:
        WorkloadError: naming the field that is wrong.
    """
    return _workload(_read_yaml(path, WorkloadFile, WorkloadError))


def read_cluster(path: Path) -> Cluster:
    """Read a YAML or JSON cluster file.

    Raises:
        ClusterError: naming the field that is wrong.
    """
    file = _read_yaml(path, ClusterFile, ClusterError)
    return Cluster(
        tuple(
            Device(d.memory_bytes, d.speed, Link(**d.h2d.model_dump()), Link(**d.d2h.model_dump()), d.kind)
            for d in file.devices
            for _ in range(d.count)
        )
    )


def read_profile(path: Path) -> Profile:
    file = read_json(path, ProfileFile, ProfileError)
    kinds = {
        name: KindProfile(
            {(u.job, Phase(u.phase), u.shard): _measurement(u) for u in kind.units},
            {direction: {c.nbytes: _measurement(c) for c in copies} for direction, copies in kind.copies.items()},
        )
        for name, kind in file.kinds.items()
    }
    fetches = {job: _measurement(m) for job, m in file.fetches.items()}
    return Profile(_workload(file.workload), kinds, fetches, file.provenance)


def profile_fields(profile: Profile) -> dict[str, Any]:
    """Return a profile as plain JSON values, the inverse of `read_profile`."""
    kinds = {
        name: {
            "units": [
                {"job": job, "phase": phase.value, "shard": shard, **vars(m)}
                for (job, phase, shard), m in kind.units.items()
            ],
            "copies": {
                direction: [{"nbytes": n, **vars(m)} for n, m in sorted(sizes.items())]
                for direction, sizes in kind.copies.items()
            },
        }
        for name, kind in profile.kinds.items()
    }
    return {
        "version": 1,
        "workload": workload_fields(profile.workload),
        "kinds": kinds,
        "fetches": {job: vars(m) for job, m in profile.fetches.items()},
        "provenance": profile.provenance,
    }


def workload_fields(workload: Workload) -> dict[str, Any]:
    """Return a workload as plain JSON values, the inverse of `read_workload`."""
    return {
        "version": 1,
        "jobs": [vars(job) | {"shards": [vars(shard) for shard in job.shards]} for job in workload.jobs],
    }


def _workload(file: WorkloadFile) -> Workload:
    jobs = []
    for job in file.jobs:
        fields = job.model_dump(exclude={"shards", "repeat"})
        shards = tuple(Shard(**shard.model_dump()) for shard in job.shards) * job.repeat
        jobs.append(TrainingJob(shards=shards, **fields))
    return Workload(tuple(jobs))


def _measurement(file: MeasurementFile) -> Measurement:
    return Measurement(file.median_s, file.spread_fraction, file.num_samples)


def _read_yaml(path: Path, model: type[Model], error: type[HydraError]) -> Model:
    """Read YAML (JSON is YAML too); aliases are refused, since a few of them can fill the memory."""
    import yaml

    text = read_text(path, error)
    try:
        if path.suffix == ".json":
            return model.model_validate(json.loads(text))
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise error(f"{path} uses a YAML alias (*name), which is not supported; write the value out.")
        return model.model_validate(yaml.safe_load(text))
    except ValidationError as reason:
        raise error(f"{path}: {_first(reason)}") from None
    except (yaml.YAMLError, json.JSONDecodeError, RecursionError) as reason:
        raise error(f"{path} is neither YAML nor JSON: {str(reason).splitlines()[0]}.") from None


def _first(reason: ValidationError) -> str:
    """Say the first of pydantic's findings in one line, with the field's name."""
    found = reason.errors(include_url=False)
    where = ".".join(str(part) for part in found[0]["loc"]) or "the file"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{where}: {found[0]['msg']}{more}"
