"""Seconds without the hardware: counted kernels through a roofline, and profiles carried to another accelerator.

A kernel takes the longest of three things: its FLOPs at the rate that matrix products reach, its bytes at the
rate that copies reach, and its launch. Kernels of a unit run one after another, so their seconds add up: over
totals, memory-bound kernels would hide behind compute-bound ones, as they never do. The launch is no addend,
since a kernel is launched while the one before it runs.

    attainable            _______ compute: peak FLOP/s x compute_fraction
    FLOP/s           ____/
                ____/             memory: bandwidth x memory_fraction x FLOPs a byte
            ___/                             FLOPs a byte ->

Source: Williams, Waterman and Patterson, Roofline, CACM 52(4), 2009.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hydrasim.dag import kinds_of_minibatches, minibatch_dag
from hydrasim.errors import ClusterError, ProfileError
from hydrasim.profile import KindProfile, Measurement, Profile, UnitKind
from hydrasim.workload import Phase, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from hydrasim.cluster import Cluster, Direction
    from hydrasim.dag import Node
    from hydrasim.workload import Shard, TrainingJob

_BISECTIONS = 40
_COPY_SIZES = (0, 1 << 20, 1 << 30, 1 << 40)  # two would do, since links are straight lines; these are for people


class Accelerator(Protocol):
    """A card by its data sheet. flops_per_s: peak by precision, dense."""

    @property
    def name(self) -> str: ...

    @property
    def memory_bytes_per_s(self) -> float: ...

    @property
    def flops_per_s(self) -> Mapping[str, float]: ...


class Kernel(NamedTuple):
    """What one operator does: floating-point operations of matrix products, and bytes read and written."""

    flops: int
    nbytes: int


class ShardKernels(NamedTuple):
    """What a shard's forward, its backward (without recomputation) and its update run, in order."""

    forward: tuple[Kernel, ...]
    backward: tuple[Kernel, ...]
    update: tuple[Kernel, ...]


Counts = Mapping[tuple[str, int], ShardKernels]  # by job and shard


@dataclass(frozen=True)
class Efficiency:
    """The fractions of the peaks that real kernels reach, and the least that one takes. source: who says so."""

    compute_fraction: float
    memory_fraction: float
    launch_s: float = 0.0
    source: str = "stated"

    def __post_init__(self) -> None:
        for name in ("compute_fraction", "memory_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ClusterError(f"efficiency: {name} is {getattr(self, name)}; it must be above 0 and at most 1.")
        if not (math.isfinite(self.launch_s) and self.launch_s >= 0):
            raise ClusterError(f"efficiency: launch_s is {self.launch_s}; it must be finite and not negative.")


# Quoted from the README and micro_bench.ipynb of github.com/mli/transformers-benchmarks (3370b2b, 04df81d).
# Matrix products of 8192 x 8192, achieved / peak TFLOP/s: V100 fp32 14/16, fp16 95/125; A100 tf32 116/156, fp16
# 230/312; A6000 tf32 60/75, fp16 95/150. bf16 runs at the fp16 rate on these cards. Vector products, 8 bytes an
# element, achieved / peak GB/s: A100 1616/2039, V100 784/900, A6000 656/768, 3090 Ti 856/1008; 0.85 is their median.
# Launch, from Python and through autograd: the 29 kernels of a BERT-large layer's forward take 0.43 ms for 2 x 128
# tokens and 0.45 ms for twice as many, on a 3090 Ti; called by itself, a kernel takes 4.3 us.
_SOURCE = "quoted from mli/transformers-benchmarks: large matrix and vector products on V100, A100, A6000, 3090 Ti"
QUOTED: Mapping[str, Efficiency] = {
    "fp32": Efficiency(0.88, 0.85, 15e-6, _SOURCE),
    "tf32": Efficiency(0.74, 0.85, 15e-6, _SOURCE),
    "fp16": Efficiency(0.74, 0.85, 15e-6, _SOURCE),
    "bf16": Efficiency(0.74, 0.85, 15e-6, _SOURCE),
}


@dataclass(frozen=True)
class Roofline:
    """What a device attains: FLOPs a second, bytes a second, and the least seconds of a kernel."""

    flops_per_s: float
    bytes_per_s: float
    launch_s: float = 0.0

    @classmethod
    def of(cls, accelerator: Accelerator, precision: str, efficiency: Efficiency | None = None) -> Roofline:
        """Return what an accelerator attains in a precision, by default with the quoted efficiency.

        Raises:
            ClusterError: the precision is unknown, or the accelerator has no peak for it.
        """
        if precision not in QUOTED:
            raise ClusterError(f"precision is {precision!r}; it is one of {', '.join(QUOTED)}.")
        efficiency = QUOTED[precision] if efficiency is None else efficiency
        flops_per_s = _peak(accelerator, precision) * efficiency.compute_fraction
        return cls(flops_per_s, accelerator.memory_bytes_per_s * efficiency.memory_fraction, efficiency.launch_s)

    def seconds(self, kernels: Iterable[Kernel]) -> float:
        """Return what these kernels take, one after another."""
        return sum(
            max(kernel.flops / self.flops_per_s, kernel.nbytes / self.bytes_per_s, self.launch_s) for kernel in kernels
        )


def compute_fraction(roofline: Roofline, samples: Sequence[tuple[Sequence[Kernel], float]]) -> float:
    """Return the fraction of the roofline's FLOP/s, at most 1, at which kernels take in the mean what was measured.

    samples: kernels, and the seconds that they took; each counts relative to these. Found by bisection: fewer
    FLOP/s never make anything faster.

    Raises:
        ClusterError: there are no FLOPs, or no fraction makes them that slow.
    """
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        slower = replace(roofline, flops_per_s=roofline.flops_per_s * middle)
        if sum(slower.seconds(kernels) / seconds for kernels, seconds in samples) > len(samples):
            low = middle
        else:
            high = middle
    if not low:
        raise ClusterError("the samples say nothing of FLOP/s; give it layers that multiply matrices.")
    return high


def timed(workload: Workload, counts: Counts, roofline: Roofline) -> Workload:
    """Return the workload with its shards' seconds on a device that attains this; evaluation as long as a forward.

    Raises:
        ProfileError: a shard was not counted.
    """

    def shard_of(job: TrainingJob, index: int, shard: Shard) -> Shard:
        if (job.name, index) not in counts:
            raise ProfileError(f"shard {index} of job {job.name!r} was not counted.")
        forward, backward, update = counts[job.name, index]
        forward_s = roofline.seconds(forward)
        evaluate_s = forward_s if job.evaluation_minibatches else 0.0
        backward_s = roofline.seconds((*backward, *update))
        return replace(shard, forward_s=forward_s, backward_s=backward_s, evaluate_s=evaluate_s)

    return Workload(
        tuple(
            replace(job, shards=tuple(shard_of(job, i, shard) for i, shard in enumerate(job.shards)))
            for job in workload.jobs
        )
    )


def _nodes(job: TrainingJob) -> list[Node]:
    """Return all kinds of units that a job may have; a fused one's last forward stands for what its L recomputes."""
    last = (Phase.FORWARD, len(job.shards) - 1)
    kinds = [node for minibatch, _ in kinds_of_minibatches(job) for node in minibatch_dag(job, minibatch).nodes]
    return list(dict.fromkeys([*minibatch_dag(job).nodes, *kinds, last]))


def analytic_profile(
    workload: Workload,
    cluster: Cluster,
    accelerators: Mapping[str, Accelerator],
    precision: str,
    counts: Counts,
    *,
    efficiency: Efficiency | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Profile:
    """Return the profile of a workload that nobody has run, from its kernels and the cluster's data sheets.

    accelerators: by `Device.kind`. Copies are those of the links. Loaders and dispatch are not counted, and take
    no time. The workload that it holds has the seconds of the first device.

    Raises:
        ClusterError: the precision is unknown, or a card or its peak for it is missing. ProfileError: a shard
        was not counted.
    """
    made: dict[str, KindProfile] = {}
    peaks: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(device.kind for device in cluster.devices):
        if kind not in accelerators:
            raise ClusterError(f"there is no data sheet for {kind!r}; there are {', '.join(accelerators) or 'none'}.")
        card = accelerators[kind]
        on_card = timed(workload, counts, Roofline.of(card, precision, efficiency))
        workload = workload if made else on_card
        units = {(job.name, *node): _certain(job.unit_s(*node)) for job in on_card.jobs for node in _nodes(job)}
        made[kind] = KindProfile(units, link_copies(cluster, kind))
        peaks[kind] = {"flops_per_s": card.flops_per_s[precision], "memory_bytes_per_s": card.memory_bytes_per_s}
    about = {
        **(provenance or {}),
        "precision": precision,
        "efficiency": asdict(efficiency or QUOTED[precision]),
        "peaks": peaks,
        "copies": "links of the cluster, as stated",
        "not_counted": "loaders, dispatch",
    }
    fetches = {job.name: _certain(job.fetch_s) for job in workload.jobs}
    return Profile(workload, made, fetches, about, cluster, label="analytic")


def extrapolate(
    profile: Profile,
    source: Accelerator,
    target: Accelerator,
    precision: str,
    cluster: Cluster,
    *,
    counts: Counts | None = None,
) -> Profile:
    """Return what a profile of one accelerator would be on another; copies are those of the new cluster's links.

    cluster: of target devices, whose kind is the target's name. counts: what each shard runs, to scale its units by
    both rooflines; without them all units scale by the peaks. What the host takes (fetches, dispatch) stays; slowdowns
    by neighbours are left out, since they were those of the old host.

    Raises:
        ProfileError: it is unclear which of the profile's kinds is the source, or a shard was not counted.
        ClusterError: an accelerator has no such peak, or the cluster has none of the targets.
    """
    found = profile.kinds.get(source.name) or (next(iter(profile.kinds.values())) if len(profile.kinds) == 1 else None)
    if found is None:
        raise ProfileError(f"the profile has the kinds {', '.join(profile.kinds)}, and none is {source.name!r}.")
    before, after = Roofline.of(source, precision), Roofline.of(target, precision)
    if counts is not None:
        slow, fast = (timed(profile.workload, counts, roofline) for roofline in (before, after))

    def ratio(unit: UnitKind) -> float:
        if counts is None:
            return before.flops_per_s / after.flops_per_s
        before_s = slow.job(unit[0]).unit_s(*unit[1:])
        return fast.job(unit[0]).unit_s(*unit[1:]) / before_s if before_s else 1.0

    def scaled(units: dict[UnitKind, Measurement]) -> dict[UnitKind, Measurement]:
        return {
            unit: replace(m, mean_s=m.mean_s * ratio(unit), median_s=m.median_s * ratio(unit))
            for unit, m in units.items()
        }

    kind = KindProfile(scaled(found.units), link_copies(cluster, target.name), scaled(found.first_units))
    provenance = {
        "extrapolated_from": source.name,
        "extrapolated_to": target.name,
        "precision": precision,
        "units_scaled_by": "ratio of peak FLOP/s" if counts is None else "ratio of rooflines over counted kernels",
        "copies": "links of the new cluster, as stated",
        "source": profile.provenance,
    }
    return replace(
        profile, kinds={target.name: kind}, provenance=provenance, cluster=cluster, slowdowns={}, label="extrapolated"
    )


def link_copies(cluster: Cluster, kind: str) -> dict[Direction, dict[int, Measurement]]:
    """Return what copies of a few sizes take on the links of the cluster's first device of that kind.

    Raises:
        ClusterError: there is no such device.
    """
    index = next((i for i, device in enumerate(cluster.devices) if device.kind == kind), None)
    if index is None:
        there = ", ".join(sorted({device.kind for device in cluster.devices}))
        raise ClusterError(f"the cluster has no device of kind {kind!r}; it has {there}.")
    found: dict[Direction, dict[int, Measurement]] = {"h2d": {}, "d2h": {}}
    for direction, sizes in found.items():
        link = cluster.devices[index].h2d if direction == "h2d" else cluster.devices[index].d2h
        rate = cluster.copy_bytes_per_s(index, direction)
        sizes.update((size, _certain(link.latency_s + size / rate)) for size in _COPY_SIZES)
    return found


def _peak(accelerator: Accelerator, precision: str) -> float:
    if precision not in accelerator.flops_per_s:
        there = ", ".join(accelerator.flops_per_s) or "none"
        raise ClusterError(
            f"{accelerator.name} has no peak for precision {precision!r}; it has {there}. Use one of these."
        )
    return accelerator.flops_per_s[precision]


def _certain(seconds: float) -> Measurement:
    return Measurement(seconds, seconds, 0.0, 1)
