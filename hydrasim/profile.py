"""Where seconds come from: a workload's stated costs, or a profile measured on a device."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from hydrasim.command import Kind
from hydrasim.errors import ProfileError
from hydrasim.workload import ActivationMode, Phase, ShardUnit, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hydrasim.cluster import Cluster, Direction
    from hydrasim.command import Command

UnitKind = tuple[str, Phase, int]  # job, phase, shard
CostLabel = Literal["measured", "analytic", "extrapolated"]
Key = TypeVar("Key")
VERSION = 1
_IQR_OF_NORMAL = 1.349  # the interquartile range of a normal distribution over its standard deviation
_NOT_RECOMPUTED = {"keep", "spill"}
MAX_SECONDS = 1e12  # of one thing: thirty thousand years; sums of them stay finite, and clocks precise


class CostModel(Protocol):
    """Predicts, in seconds, what a command takes when it runs alone; devices are named by index.

    mode: how a backward finds its activations; by default as its job says. update_s: an optimizer's step on the host.
    dispatch_s: from the end of a
    command until those that follow from it have been issued. slowdown: how many times longer a job's units
    take than alone while so many devices compute. variation: the coefficient of variation of a command.
    """

    def compute_s(self, unit: ShardUnit, device: int, mode: ActivationMode | None = None) -> float: ...
    def copy_s(self, nbytes: int, device: int, direction: Direction) -> float: ...
    def fetch_s(self, job: str) -> float: ...
    def update_s(self, job: str, shard: int) -> float: ...
    def dispatch_s(self) -> float: ...
    def slowdown(self, job: str, num_computing: int) -> float: ...
    def variation(self, command: Command) -> float: ...


def label_of(costs: CostModel) -> str:
    """Return where a cost model's seconds come from: stated, measured, analytic, extrapolated; "given" for others."""
    return str(getattr(costs, "label", "given"))


class StatedCosts:
    """The costs that the workload and cluster state: shard seconds over device speed, link curves.

    pinned: copies are from and to page-locked host memory.
    """

    label = "stated"

    def __init__(self, workload: Workload, cluster: Cluster, *, pinned: bool = True) -> None:
        self._cluster, self._pinned = cluster, pinned
        self._devices = cluster.devices
        self._link_s: dict[tuple[int, Direction], tuple[float, float]] = {}  # latency, bandwidth
        self._fetch_s = {job.name: job.fetch_s for job in workload.jobs}
        self._unit_s = {
            (job.name, phase, shard): job.unit_s(phase, shard)
            for job in workload.jobs
            for shard in range(len(job.shards))
            for phase in Phase
        }
        self._jobs = workload.by_name

    def compute_s(self, unit: ShardUnit, device: int, mode: ActivationMode | None = None) -> float:
        if mode is None or mode == self._jobs[unit.job].activation_mode:
            return self._unit_s[unit[:3]] / self._devices[device].speed
        return self._jobs[unit.job].unit_s(unit.phase, unit.shard, mode) / self._devices[device].speed

    def copy_s(self, nbytes: int, device: int, direction: Direction) -> float:
        key = device, direction
        if key not in self._link_s:
            link = self._devices[device].h2d if direction == "h2d" else self._devices[device].d2h
            self._link_s[key] = link.latency_s, self._cluster.copy_bytes_per_s(device, direction, self._pinned)
        latency_s, bytes_per_s = self._link_s[key]
        return latency_s + nbytes / bytes_per_s

    def fetch_s(self, job: str) -> float:
        return self._fetch_s[job]

    def update_s(self, job: str, shard: int) -> float:
        return self._jobs[job].shards[shard].update_s

    def dispatch_s(self) -> float:
        return self._cluster.dispatch_s

    def slowdown(self, job: str, num_computing: int) -> float:
        return self._cluster.slowdown(num_computing)

    def variation(self, command: Command) -> float:
        return self._cluster.variation


@dataclass(frozen=True)
class Measurement:
    """Repeated measurements of one thing, in seconds.

    mean_s: what a simulation charges, since a makespan is a sum of many. median_s: for people, with
    spread_fraction, the interquartile range over it.
    """

    mean_s: float
    median_s: float
    spread_fraction: float
    num_samples: int

    @classmethod
    def of(cls, samples: Iterable[float]) -> Measurement:
        """Summarise samples, in seconds; at least one is needed."""
        values = sorted(samples)
        middle = median(values)
        low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (middle,) * 3
        return cls(fmean(values), middle, (high - low) / middle if middle else 0.0, len(values))


@dataclass(frozen=True)
class KindProfile:
    """What was measured on one kind of device: units by job, phase and shard; copies by size.

    first_units: of a job's first mini-batch, which makes the optimizer's state and touches memory first.
    """

    units: dict[UnitKind, Measurement] = field(default_factory=dict)
    copies: dict[Direction, dict[int, Measurement]] = field(default_factory=dict)
    first_units: dict[UnitKind, Measurement] = field(default_factory=dict)

    def distorted(self, unit_factor: Callable[[UnitKind], float], copy_factor: Callable[[int], float]) -> KindProfile:
        """See `Profile.distorted`."""
        return KindProfile(
            _times(self.units, unit_factor),
            {direction: _times(sizes, copy_factor) for direction, sizes in self.copies.items()},
            _times(self.first_units, unit_factor),
        )


def _times(measured: dict[Key, Measurement], factor: Callable[[Key], float]) -> dict[Key, Measurement]:
    return {key: replace(m, mean_s=m.mean_s * factor(key)) for key, m in measured.items()}


@dataclass(frozen=True)
class Profile:
    """Costs of a workload, with where and how they were measured, or from what they were worked out.

    kinds: by `Device.kind`. fetches: seconds a job's loader takes a mini-batch. updates: of optimizers' steps on the
    host. provenance: host,
    versions, thread count, repeats; free text for people, never read by the simulator. cluster: what
    it was measured on, the default to simulate on. dispatch: seconds from the end of a command until
    those that follow from it have been issued. slowdowns: by job, how many times longer its units take
    while all other devices compute; the units' own times are without that. label: where the seconds come
    from: a device, counted FLOPs and bytes, or another device.
    """

    workload: Workload
    kinds: dict[str, KindProfile]
    fetches: dict[str, Measurement]
    provenance: dict[str, Any] = field(default_factory=dict)
    cluster: Cluster | None = None
    dispatch: Measurement | None = None
    slowdowns: dict[str, float] = field(default_factory=dict)
    label: CostLabel = "measured"
    updates: dict[UnitKind, Measurement] = field(default_factory=dict)

    def costs(self, cluster: Cluster) -> MeasuredCosts:
        """Return the measured costs on that cluster's devices.

        Raises:
            ProfileError: a kind of device, a unit or a direction was not measured.
        """
        return MeasuredCosts(self, cluster)

    def distorted(self, unit_factor: Callable[[UnitKind], float], copy_factor: Callable[[int], float]) -> Profile:
        """Return this profile with its units' and copies' means multiplied, to see what an error in it does.

        unit_factor: by job, phase and shard. copy_factor: by bytes.
        """
        kinds = {name: kind.distorted(unit_factor, copy_factor) for name, kind in self.kinds.items()}
        return replace(self, kinds=kinds)

    @cached_property
    def digest(self) -> str:
        """Return a short hash of everything that a simulation can read."""
        from hydrasim.files import profile_fields

        fields = profile_fields(self) | {"provenance": {}}
        del fields["label"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, path: Path) -> None:
        from hydrasim.disk import write_text
        from hydrasim.files import profile_fields

        write_text(path, json.dumps(profile_fields(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Profile:
        """Read a profile file.

        Raises:
            ProfileError: it is not a profile of this version.
        """
        from hydrasim.files import read_profile

        return read_profile(path)


class MeasuredCosts:
    """Costs looked up in a profile; copies of unmeasured sizes are interpolated between neighbours."""

    def __init__(self, profile: Profile, cluster: Cluster) -> None:
        missing = sorted({device.kind for device in cluster.devices} - set(profile.kinds))
        if missing:
            raise ProfileError(f"the profile has no device kind {missing[0]!r}; it has {', '.join(profile.kinds)}.")
        self.label = profile.label
        self._kinds = [profile.kinds[device.kind] for device in cluster.devices]
        self._fetches, self._updates, self._slowdowns = profile.fetches, profile.updates, profile.slowdowns
        self._cluster = cluster
        self._num_others = max(1, len(cluster.devices) - 1)
        self._modes = {job.name: job.activation_mode for job in profile.workload.jobs}
        self._dispatch_s = cluster.dispatch_s if profile.dispatch is None else profile.dispatch.mean_s
        self._units = [{key: m.mean_s for key, m in kind.units.items()} for kind in self._kinds]
        self._first_units = [{key: m.mean_s for key, m in kind.first_units.items()} for kind in self._kinds]
        self._copies: list[dict[Direction, list[tuple[int, float]]]] = [
            {direction: sorted((n, m.mean_s) for n, m in sizes.items()) for direction, sizes in kind.copies.items()}
            for kind in self._kinds
        ]
        self._copy_s: dict[tuple[int, int, Direction], float] = {}

    def compute_s(self, unit: ShardUnit, device: int, mode: ActivationMode | None = None) -> float:
        measured = self._modes.get(unit.job)
        if mode is None or mode == measured or unit.phase is not Phase.BACKWARD or {mode, measured} == _NOT_RECOMPUTED:
            return self._measured_s(unit, device)
        forward_s = self._measured_s(unit._replace(phase=Phase.FORWARD), device)
        if mode == "recompute":
            return self._measured_s(unit, device) + forward_s
        return max(0.0, self._measured_s(unit, device) - forward_s)

    def _measured_s(self, unit: ShardUnit, device: int) -> float:
        try:
            if unit.minibatch == 0 and (first_s := self._first_units[device].get(unit[:3])) is not None:
                return first_s
            return self._units[device][unit[:3]]
        except KeyError:
            raise ProfileError(f"the profile has no time for {unit} on device {device}; profile again.") from None

    def copy_s(self, nbytes: int, device: int, direction: Direction) -> float:
        key = (nbytes, device, direction)
        if key not in self._copy_s:
            points = self._copies[device].get(direction)
            if not points:
                raise ProfileError(f"the profile has no {direction} copies on device {device}; profile again.")
            self._copy_s[key] = _interpolate(points, nbytes)
        return self._copy_s[key]

    def copy_sizes(self, device: int, direction: Direction) -> list[int]:
        """Return the measured sizes in bytes, with seconds on lines between them; a part may go at a better rate."""
        return [size for size, _ in self._copies[device].get(direction, [])]

    def fetch_s(self, job: str) -> float:
        if job not in self._fetches:
            raise ProfileError(f"the profile has no fetch time for job {job!r}; profile again.")
        return self._fetches[job].mean_s

    def update_s(self, job: str, shard: int) -> float:
        measured = self._updates.get((job, Phase.UPDATE, shard))
        if measured is None:
            raise ProfileError(f"the profile has no update on the host of shard {shard} of {job!r}; profile again.")
        return measured.mean_s

    def dispatch_s(self) -> float:
        return self._dispatch_s

    def slowdown(self, job: str, num_computing: int) -> float:
        if job not in self._slowdowns:
            return self._cluster.slowdown(num_computing)
        return 1.0 + (self._slowdowns[job] - 1.0) * (num_computing - 1) / self._num_others

    def variation(self, command: Command) -> float:
        """See `CostModel`; what was not measured, or only once, varies as the cluster states."""
        measured = self._measured(command)
        if measured is None or measured.num_samples == 1:
            return self._cluster.variation
        return measured.spread_fraction / _IQR_OF_NORMAL

    def _measured(self, command: Command) -> Measurement | None:
        if command.kind is Kind.COMPUTE:
            units, (job, _, shard) = self._kinds[command.device].units, command.unit[:3]
            return units.get(command.unit[:3]) or units.get((job, Phase.LOSS, shard))
        if command.kind is Kind.FETCH:
            return self._fetches.get(command.unit.job)
        if command.kind is Kind.UPDATE:
            return self._updates.get(command.unit[:3])
        if command.kind not in (Kind.LOAD, Kind.STORE):
            return None
        sizes = self._kinds[command.device].copies.get("h2d" if command.kind is Kind.LOAD else "d2h", {})
        return min(sizes.items(), key=lambda item: abs(item[0] - command.nbytes), default=(0, None))[1]


def _interpolate(points: list[tuple[int, float]], nbytes: int) -> float:
    """Return seconds on the line through the neighbouring points; beyond the largest, at its rate."""
    sizes = [size for size, _ in points]
    above = bisect_left(sizes, nbytes)
    if above == len(points):
        size, seconds = points[-1]
        return seconds * nbytes / size if size else seconds
    if sizes[above] == nbytes or above == 0:
        return points[above][1]
    (low, low_s), (high, high_s) = points[above - 1], points[above]
    return low_s + (high_s - low_s) * (nbytes - low) / (high - low)
