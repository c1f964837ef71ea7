"""Random worlds for rival systems that fit to the byte: jobs, devices, links, options of any system of the registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, replace
from itertools import combinations

from hypothesis import strategies as st

from hydrasim import Cluster, Device, Link, TrainingJob, Workload
from hydrasim.errors import SystemRefused
from hydrasim.mechanism import EFFECTS, Effects
from hydrasim.profile import StatedCosts
from hydrasim.systems import System, systems
from tests.invariants.record import count_world
from tests.invariants.strategies import BUSES, BYTES, LINKS, SECONDS, SHARDS

ROOMY = 1 << 40
_VALUES: dict[str, tuple[object, ...]] = {  # of an option, by the unit that its name ends in
    "_bytes": (0, 1, 64, 300, 1000),
    "_s": (0.25, 1.0),
    "": (0, 1, 2, 3, 4, 7),
}


@dataclass(frozen=True)
class SystemWorld:
    """All that a simulation of a rival system takes."""

    workload: Workload
    cluster: Cluster
    system: System
    effects: Effects
    seed: int


@st.composite
def system_jobs(draw: st.DrawFn, name: str) -> TrainingJob:
    return TrainingJob(
        name,
        tuple(draw(st.lists(SHARDS, min_size=1, max_size=5))),
        minibatches=draw(st.integers(1, 4)),
        fused=draw(st.booleans()),
        activation_mode=draw(st.sampled_from(["recompute", "keep", "spill"])),
        input_bytes=draw(BYTES),
        target_bytes=draw(BYTES),
        fetch_s=draw(SECONDS),
        arrival_s=draw(st.sampled_from([0, 0, 1.5, 4.0])),
    )


@st.composite
def roomy_clusters(draw: st.DrawFn) -> Cluster:
    """Draw a cluster with all the memory in the world; either all of its devices have peer links, or none, or some."""
    peers: st.SearchStrategy[Link | None] = draw(st.sampled_from([LINKS, st.none(), LINKS | st.none()]))
    devices = st.builds(
        Device,
        memory_bytes=st.just(ROOMY),
        speed=st.sampled_from([1.0, 2.0]),
        h2d=LINKS,
        d2h=LINKS,
        duplex=st.sampled_from(["full", "half"]),
        peer=peers,
        on_host=st.booleans(),
    )
    return Cluster(
        tuple(draw(st.lists(devices, min_size=1, max_size=4))),
        draw(st.sampled_from([None, 1, 2])),
        draw(BUSES),
        host_bytes_per_s=draw(st.sampled_from([128.0, float("inf")])),
        compute_slowdown=draw(st.sampled_from([(), (1.0, 1.25, 2.0)])),
        variation=draw(st.sampled_from([0.0, 0.2])),
    )


@st.composite
def system_worlds(draw: st.DrawFn, effects: Sequence[Effects] = EFFECTS, *, arranging: bool = True) -> SystemWorld:
    """Draw a world in which a system fits exactly, by what it states.

    arranging: among the systems are those that choose devices job by job, whose worlds only fit closely.
    """
    names = [name for name, system in systems().items() if arranging or not arranges(system)]
    workload = Workload(tuple(draw(system_jobs(f"j{order}")) for order in range(draw(st.integers(1, 4)))))
    cluster = draw(roomy_clusters())
    system = draw(optioned(systems()[draw(st.sampled_from(names))](), workload, cluster))
    cluster = with_memory(cluster, needs(system, workload, cluster))
    while not accepted(system, workload, cluster):
        cluster = with_memory(cluster, [2 * device.memory_bytes for device in cluster.devices])
    for device in draw(st.lists(st.integers(0, len(cluster.devices) - 1), max_size=4)):
        tighter = one_byte_less(cluster, device)
        if accepted(system, workload, tighter):  # by another arrangement, as of stages
            cluster = tighter if arranges(type(system)) else with_memory(tighter, needs(system, workload, tighter))
    exact = replace(cluster, host_memory_bytes=max(1, host_bytes(system, workload, cluster)))
    if accepted(system, workload, exact):
        cluster = draw(st.sampled_from([cluster, exact]))
    rung = draw(st.sampled_from(effects))
    count_world(workload, len(cluster.devices), system=system.name, effects=rung)
    return SystemWorld(workload, cluster, system, rung, draw(st.integers(0, 3)))


def arranges(system: type[System]) -> bool:
    """Tell whether a system chooses the devices of each job by itself."""
    return system.training is not System.training


@st.composite
def optioned(draw: st.DrawFn, system: System, workload: Workload, cluster: Cluster) -> System:
    """Draw values for all options of a system, of those that it accepts."""
    for option in fields(system):
        default = getattr(system, option.name)
        others = [value for value in _values(system, option) if _accepts(system, option.name, value, workload, cluster)]
        system = replace(system, **{option.name: draw(st.sampled_from([default, *others]))})
    return system


def _values(system: System, option: Field[object]) -> list[object]:
    plain, _, optional = str(option.type).partition(" | ")
    unit = next(unit for unit in _VALUES if option.name.endswith(unit))
    values = {"bool": (False, True), "str": getattr(system, "allowed", ())}.get(plain)
    if values is None:
        values = _VALUES[unit] if plain in ("int", "float") else ()
    return [*values, *([None] if optional else [])]


def _accepts(system: System, name: str, value: object, workload: Workload, cluster: Cluster) -> bool:
    try:
        needs(replace(system, **{name: value}), workload, cluster)
    except SystemRefused:
        return False
    return True


def needs(system: System, workload: Workload, cluster: Cluster) -> list[int]:
    """Return what a system states to need of each device, for whichever job needs most of it."""
    most = [0] * len(cluster.devices)
    for group in system.groups(workload, cluster):
        for job in workload.jobs:
            for device, need in zip(group, system.memory_bytes(job, cluster, group), strict=True):
                most[device] = max(most[device], need)
    return most


def accepted(system: System, workload: Workload, cluster: Cluster) -> bool:
    """Tell whether a system takes a workload on a cluster."""
    try:
        system.training(workload, cluster, StatedCosts(workload, cluster), "transfers")
    except SystemRefused:
        return False
    return True


def host_bytes(system: System, workload: Workload, cluster: Cluster) -> int:
    """Return what a system states to need of host memory: all state, and the most that its groups add to it at once."""
    groups = system.groups(workload, cluster)
    states = {job.name: sum(shard.state_bytes for shard in job.shards) for job in workload.jobs}
    added = [
        max(system.host_bytes(job, cluster, group) for group in groups) - states[job.name] for job in workload.jobs
    ]
    return sum(states.values()) + max(sum(some) for some in combinations(added, min(len(groups), len(added))))


def with_memory(cluster: Cluster, memory_bytes: Sequence[int]) -> Cluster:
    devices = zip(cluster.devices, memory_bytes, strict=True)
    return replace(cluster, devices=tuple(replace(d, memory_bytes=max(1, nbytes)) for d, nbytes in devices))


def one_byte_less(cluster: Cluster, device: int) -> Cluster:
    """Return the cluster with a byte less on one device; one byte is the least that a device can have."""
    less = [d.memory_bytes - (index == device) for index, d in enumerate(cluster.devices)]
    return with_memory(cluster, less)
