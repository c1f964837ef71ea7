"""The door: every file is read, checked once, and turned into the project's own types here."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from hydrasim.cluster import Bus, Cluster, Device, Disk, Link
from hydrasim.disk import read_text
from hydrasim.errors import ClusterError, HydraError, ProfileError, WorkloadError, shortened, told
from hydrasim.fields import job_fields
from hydrasim.profile import KindProfile, Measurement, Profile, UnitKind
from hydrasim.schemas import (
    MAX_COPIES,
    MAX_SHARDS,
    ClusterFile,
    LinkFile,
    MeasurementFile,
    ProfileFile,
    UnitFile,
    WorkloadFile,
)
from hydrasim.workload import Phase, Shard, TrainingJob, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_YAML_BYTES = 1 << 22  # takes the parser several seconds, and a hundred times its memory
_MAX_DEPTH = 32

Model = TypeVar("Model", bound=BaseModel)


def parse_line(path: Path, number: int, line: str, model: type[Model], error: type[HydraError]) -> Model:
    """Check one line of JSON."""
    return parse_json(line, model, error, f"{path}, line {number}")


def read_json(path: Path, model: type[Model], error: type[HydraError]) -> Model:
    """Read and check a JSON file."""
    return parse_json(read_text(path, error), model, error, str(path))


def parse_json(text: str, model: type[Model], error: type[HydraError], where: str) -> Model:
    """Check a JSON text against a model, or raise `error` with what is wrong with it. where: it comes from."""
    try:
        checked = model.model_validate_json(text)
    except ValidationError as reason:
        raise error(f"{where}: {_first(reason)}") from None
    try:
        json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as reason:
        raise error(f"{where}: {reason}.") from None
    return checked


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse an object that names a field twice, where readers keep one or the other."""
    if len(names := {name for name, _ in pairs}) != len(pairs):
        twice = next(name for name in names if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"{shortened(twice)!r} is there twice; keep one of the two")


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
    if (count := sum(device.count for device in file.devices)) > MAX_COPIES:
        raise ClusterError(f"devices: there are {count:,}; at most {MAX_COPIES:,} are allowed.")
    devices = []
    for device in file.devices:
        fields = device.model_dump(exclude={"count", "h2d", "d2h", "peer"})
        peer = None if device.peer is None else _link(device.peer)
        devices += [Device(h2d=_link(device.h2d), d2h=_link(device.d2h), peer=peer, **fields)] * device.count
    buses = tuple(Bus(**bus.model_dump()) for bus in file.buses)
    disk = None if file.disk is None else Disk(_link(file.disk.read), _link(file.disk.write))
    fields = file.model_dump(exclude={"version", "devices", "buses", "disk", "compute_slowdown"})
    slowdown = tuple(file.compute_slowdown)
    return Cluster(tuple(devices), buses=buses, disk=disk, compute_slowdown=slowdown, **fields)


def _link(file: LinkFile) -> Link:
    return Link(**file.model_dump())


def read_profile(path: Path) -> Profile:
    """Read a profile file.

    Raises:
        ProfileError: naming the field that is wrong.
    """
    file = read_json(path, ProfileFile, ProfileError)
    kinds = {
        name: KindProfile(
            _units(kind.units),
            {direction: {c.nbytes: _measurement(c) for c in copies} for direction, copies in kind.copies.items()},
            _units(kind.first_units),
        )
        for name, kind in file.kinds.items()
    }
    fetches = {job: _measurement(m) for job, m in file.fetches.items()}
    with _naming(path, ProfileError):
        cluster = None if file.cluster is None else _cluster(file.cluster)
        dispatch = None if file.dispatch is None else _measurement(file.dispatch)
        workload = _workload(file.workload)
        updates, label = _units(file.updates), file.label
        return Profile(workload, kinds, fetches, file.provenance, cluster, dispatch, file.slowdowns, label, updates)


def profile_fields(profile: Profile) -> dict[str, Any]:
    """Return a profile as plain JSON values, the inverse of `read_profile`."""
    kinds = {
        name: {
            "units": _unit_fields(kind.units),
            "first_units": _unit_fields(kind.first_units),
            "copies": {
                direction: [{"nbytes": n, **vars(m)} for n, m in sorted(sizes.items())]
                for direction, sizes in kind.copies.items()
            },
        }
        for name, kind in profile.kinds.items()
    }
    return {
        "version": 1,
        "label": profile.label,
        "workload": workload_fields(profile.workload),
        "kinds": kinds,
        "fetches": {job: vars(m) for job, m in profile.fetches.items()},
        "dispatch": None if profile.dispatch is None else vars(profile.dispatch),
        "slowdowns": profile.slowdowns,
        "provenance": profile.provenance,
        "cluster": None if profile.cluster is None else cluster_fields(profile.cluster),
        **({"updates": _unit_fields(profile.updates)} if profile.updates else {}),  # digests of others stay
    }


def _unit_fields(units: dict[UnitKind, Measurement]) -> list[dict[str, Any]]:
    return [{"job": job, "phase": phase.value, "shard": shard, **vars(m)} for (job, phase, shard), m in units.items()]


def _units(files: list[UnitFile]) -> dict[UnitKind, Measurement]:
    return {(unit.job, Phase(unit.phase), unit.shard): _measurement(unit) for unit in files}


def cluster_fields(cluster: Cluster) -> dict[str, Any]:
    """Return a cluster as plain JSON values, the inverse of `read_cluster`; infinite bandwidth is left out."""
    fields = _finite(asdict(cluster))
    assert isinstance(fields, dict)
    if not cluster.restart_s:
        del fields["restart_s"]
    return {"version": 1, **fields}


def _finite(value: object) -> object:
    """Leave out what is infinite, which JSON cannot say and the file's default does."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items() if not (isinstance(v, float) and math.isinf(v))}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def workload_fields(workload: Workload) -> dict[str, Any]:
    """Return a workload as plain JSON values, the inverse of `read_workload`."""
    return {"version": 1, "jobs": [job_fields(job) for job in workload.jobs]}


def _workload(file: WorkloadFile) -> Workload:
    if (count := sum(len(job.shards) * job.repeat for job in file.jobs)) > MAX_SHARDS:
        raise WorkloadError(f"jobs: they have {count:,} shards together; at most {MAX_SHARDS:,} are allowed.")
    jobs = []
    for job in file.jobs:
        fields = job.model_dump(exclude={"shards", "repeat"})
        shards = tuple(Shard(**shard.model_dump()) for shard in job.shards) * job.repeat
        jobs.append(TrainingJob(shards=shards, **fields))
    return Workload(tuple(jobs))


def _measurement(file: MeasurementFile) -> Measurement:
    return Measurement(file.mean_s, file.median_s, file.spread_fraction, file.num_samples)


def _read_yaml(path: Path, model: type[Model], error: type[HydraError]) -> Model:
    """Read YAML, or JSON if the suffix says so."""
    if path.suffix == ".json":
        return read_json(path, model, error)
    fields = _load_yaml(path, read_text(path, error, MAX_YAML_BYTES), error)
    try:
        return model.model_validate(fields)
    except ValidationError as reason:
        raise error(f"{path}: {_first(reason)}") from None


def _load_yaml(path: Path, text: str, error: type[HydraError]) -> object:
    """Parse YAML (JSON is YAML too); aliases are refused, since a few of them can fill the memory."""
    import yaml

    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise error(f"{path} nests more than {_MAX_DEPTH} deep; this is no file of ours.")
            if isinstance(event, yaml.AliasEvent):
                raise error(f"{path} uses a YAML alias (*name), which is not supported; write the value out.")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _check_keys(root)
        return yaml.safe_load(text)
    except HydraError:
        raise
    except Exception as reason:  # the parser lets through what int, float and dates raise, and worse
        raise error(f"{path} is neither YAML nor JSON: {told(reason).splitlines()[0]}.") from None


def _check_keys(node: Any) -> None:
    """Refuse a mapping that names a field twice; the parser would keep the last one."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        _once(
            [
                (key.value if isinstance(key.value, str) else str(index), None)
                for index, (key, _) in enumerate(node.value)
            ]
        )
        for _, value in node.value:
            _check_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(value)


@contextmanager
def _naming(path: Path, error: type[HydraError]) -> Iterator[None]:
    """Say which file it was whose fields are each allowed, but do not go together."""
    try:
        yield
    except HydraError as reason:
        raise error(f"{path}: {shortened(str(reason))}") from None


def _first(reason: ValidationError) -> str:
    """Say the first of pydantic's findings in one line, with the field's name."""
    found = reason.errors(include_url=False)
    where = ".".join(str(part) for part in found[0]["loc"]) or "the file"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return shortened(f"{where}: {found[0]['msg']}") + more
