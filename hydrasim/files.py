"""The door: every file is read, checked once, and turned into the project's own types here."""

from __future__ import annotations

import json
import math
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from hydrasim.cluster import Cluster, Device, Link
from hydrasim.errors import ClusterError, HydraError, ProfileError, WorkloadError
from hydrasim.profile import KindProfile, Measurement, Profile
from hydrasim.schemas import ClusterFile, MeasurementFile, ProfileFile, WorkloadFile
from hydrasim.workload import Phase, Shard, TrainingJob, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILE_BYTES = 1 << 30
_MAX_DEPTH = 32

Model = TypeVar("Model", bound=BaseModel)


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
        with suppress(OSError):
            temporary.unlink()
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
    file = _read_yaml(path, WorkloadFile, WorkloadError)
    with _naming(path, WorkloadError):
        return _workload(file)


def read_cluster(path: Path) -> Cluster:
    """Read a YAML or JSON cluster file.

    Raises:
        ClusterError: naming the field that is wrong.
    """
    file = _read_yaml(path, ClusterFile, ClusterError)
    with _naming(path, ClusterError):
        return _cluster(file)


def _cluster(file: ClusterFile) -> Cluster:
    return Cluster(
        tuple(
            Device(d.memory_bytes, d.speed, Link(**d.h2d.model_dump()), Link(**d.d2h.model_dump()), d.kind)
            for d in file.devices
            for _ in range(d.count)
        )
    )


def read_profile(path: Path) -> Profile:
    """Read a profile file.

    Raises:
        ProfileError: naming the field that is wrong.
    """
    file = read_json(path, ProfileFile, ProfileError)
    kinds = {
        name: KindProfile(
            {(u.job, Phase(u.phase), u.shard): _measurement(u) for u in kind.units},
            {direction: {c.nbytes: _measurement(c) for c in copies} for direction, copies in kind.copies.items()},
        )
        for name, kind in file.kinds.items()
    }
    fetches = {job: _measurement(m) for job, m in file.fetches.items()}
    with _naming(path, ProfileError):
        cluster = None if file.cluster is None else _cluster(file.cluster)
        return Profile(_workload(file.workload), kinds, fetches, file.provenance, cluster)


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
        "cluster": None if profile.cluster is None else cluster_fields(profile.cluster),
    }


def cluster_fields(cluster: Cluster) -> dict[str, Any]:
    """Return a cluster as plain JSON values, the inverse of `read_cluster`; infinite bandwidth is left out."""
    return {"version": 1, "devices": [_device_fields(device) for device in cluster.devices]}


def _device_fields(device: Device) -> dict[str, Any]:
    links = {
        direction: {name: value for name, value in vars(link).items() if math.isfinite(value)}
        for direction, link in (("h2d", device.h2d), ("d2h", device.d2h))
    }
    return vars(device) | links


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
    return Measurement(file.mean_s, file.median_s, file.spread_fraction, file.num_samples)


def _read_yaml(path: Path, model: type[Model], error: type[HydraError]) -> Model:
    """Read YAML (JSON is YAML too); aliases are refused, since a few of them can fill the memory."""
    import yaml

    text = read_text(path, error)
    try:
        if path.suffix == ".json":
            return model.model_validate(json.loads(text))
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise error(f"{path} nests more than {_MAX_DEPTH} deep; this is no file of ours.")
            if isinstance(event, yaml.AliasEvent):
                raise error(f"{path} uses a YAML alias (*name), which is not supported; write the value out.")
        return model.model_validate(yaml.safe_load(text))
    except ValidationError as reason:
        raise error(f"{path}: {_first(reason)}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as reason:  # ValueError: a date such as 2024-13-01
        raise error(f"{path} is neither YAML nor JSON: {str(reason).splitlines()[0]}.") from None


@contextmanager
def _naming(path: Path, error: type[HydraError]) -> Iterator[None]:
    """Say which file it was whose fields are each allowed, but do not go together."""
    try:
        yield
    except HydraError as reason:
        raise error(f"{path}: {reason}") from None


def _first(reason: ValidationError) -> str:
    """Say the first of pydantic's findings in one line, with the field's name."""
    found = reason.errors(include_url=False)
    where = ".".join(str(part) for part in found[0]["loc"]) or "the file"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{where}: {found[0]['msg']}{more}"
