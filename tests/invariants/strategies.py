"""Random worlds that fit, but only just: jobs, devices, links, mechanisms, policies."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random

from hypothesis import strategies as st

from hydrasim import Bus, Cluster, Device, Disk, Link, Mechanism, Shard, ShardUnit, TrainingJob, Workload
from hydrasim.command import Command
from hydrasim.dataflow import aligned, block_bytes, home_bytes, passing_keys, state_keys, unit_bytes
from hydrasim.mechanism import EFFECTS, MECHANISMS, Effects
from hydrasim.policies import policies
from hydrasim.workload import Phase
from tests.invariants.record import count_world, mechanism_name

SECONDS = st.integers(0, 8).map(lambda quarters: quarters / 4)  # dyadic, so sums of them are exact
BYTES = st.sampled_from([0, 1, 64, 100, 128, 300])


@dataclass(frozen=True)
class World:
    """All that a simulation takes."""

    workload: Workload
    cluster: Cluster
    policy: str
    mechanism: Mechanism
    effects: Effects
    seed: int


SHARDS = st.builds(
    Shard,
    forward_s=SECONDS,
    backward_s=SECONDS,
    parameter_bytes=BYTES,
    optimizer_bytes=BYTES,
    output_bytes=BYTES,
    working_bytes=BYTES,
    activation_bytes=BYTES,
    forward_updates=st.sampled_from([False, False, True]),
)
LINKS = st.builds(
    Link,
    bytes_per_s=st.sampled_from([64.0, 256.0, 1024.0, math.inf]),
    latency_s=st.sampled_from([0, 0.25]),
    pageable_bytes_per_s=st.sampled_from([None, 32.0]),
    shared=st.sampled_from(["", "a", "b"]),
)
DISKS = st.builds(
    Disk,
    st.builds(Link, st.sampled_from([16.0, 256.0, math.inf]), st.sampled_from([0, 0.25])),
    st.builds(Link, st.sampled_from([16.0, 256.0, math.inf]), st.sampled_from([0, 0.25])),
)
BUSES = st.builds(
    lambda a, b: (Bus("a", a, "full"), Bus("b", b, "half")),
    st.sampled_from([64.0, 512.0, math.inf]),
    st.sampled_from([64.0, 512.0, math.inf]),
)
RANDOM_MECHANISMS = st.builds(
    Mechanism,
    prefetch=st.booleans(),
    loading_zone_fraction=st.sampled_from([None, 0.0, 0.15, 0.5]),
    partial_prefetch=st.booleans(),
    keep=st.sampled_from(["all", "none", "released"]),
    write_back=st.sampled_from(["auto", "lazy", "through"]),
    store_clean=st.booleans(),
    skip_spill=st.booleans(),
    synchronous_copies=st.booleans(),
    cap_devices=st.booleans(),
    eviction=st.sampled_from(["next-use", "lru"]),
)
NAMED_MECHANISMS = st.builds(
    lambda mechanism, prefetch: replace(mechanism, prefetch=prefetch),
    st.sampled_from(list(MECHANISMS.values())),
    st.booleans(),
)


@st.composite
def jobs(draw: st.DrawFn, name: str) -> TrainingJob:
    update_units, host_updates = draw(st.sampled_from([(False, "no"), (True, "no"), (False, "each"), (False, "all")]))
    shards = tuple(draw(st.lists(SHARDS, min_size=1, max_size=4)))
    separate = update_units or host_updates != "no"
    if host_updates != "no":
        shards = tuple(replace(shard, forward_updates=False) for shard in shards)
    if separate:
        shards = tuple(replace(shard, update_s=draw(SECONDS), gradient_bytes=draw(BYTES)) for shard in shards)
    sharing = draw(st.sets(st.integers(0, len(shards) - 1), max_size=3)) if update_units else set()
    ties = (tuple(sorted(sharing)), draw(st.sampled_from([1, 64, 130]))) if len(sharing) > 1 else ((), 0)
    accumulate = draw(st.sampled_from([1, 1, 2, 3])) if separate else 1
    minibatches, epochs = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    num_evaluations = draw(st.sampled_from([0, 0, 1, 2]))
    if num_evaluations:
        minibatches = -(-minibatches // accumulate) * accumulate
        shards = tuple(replace(shard, evaluate_s=draw(SECONDS)) for shard in shards)
    return TrainingJob(
        name,
        shards,
        update_units=update_units,
        host_updates=host_updates,
        tied_shards=ties[0],
        tied_bytes=ties[1],
        accumulate=accumulate,
        minibatches=minibatches,
        epochs=epochs,
        evaluation_minibatches=num_evaluations,
        max_minibatches=draw(st.sampled_from([None, None, 1, 2, 4])),
        fused=draw(st.booleans()),
        activation_mode=draw(st.sampled_from(["recompute", "keep", "spill"])),
        input_bytes=draw(BYTES),
        target_bytes=draw(BYTES),
        fetch_s=draw(SECONDS),
        arrival_s=draw(st.sampled_from([0, 0, 0, 1.5])),
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw a world whose devices hold the neediest unit and a few cells of 64 bytes more."""
    workload = Workload(tuple(draw(jobs(f"j{order}")) for order in range(draw(st.integers(1, 5)))))
    mechanism = draw(NAMED_MECHANISMS | RANDOM_MECHANISMS)
    need = math.ceil(neediest_unit_bytes(workload) / (1 - (mechanism.loading_zone_fraction or 0.0)))
    devices = []
    for _ in range(draw(st.integers(1, 3))):
        slack = draw(st.integers(0, 20)) * 64 + draw(st.sampled_from([64, 71]))
        memory = aligned(workload.working_bytes) + aligned(need) + slack
        speed, duplex = draw(st.sampled_from([1.0, 2.0])), draw(st.sampled_from(["full", "half"]))
        on_host = draw(st.booleans())
        devices.append(Device(memory, speed, draw(LINKS), draw(LINKS), duplex=duplex, on_host=on_host))
    policy = draw(st.sampled_from(sorted(policies())))
    host_memory_bytes, disk = draw(host_memories(workload))
    cluster = Cluster(
        tuple(devices),
        draw(st.sampled_from([None, 1, 2])),
        draw(BUSES),
        host_memory_bytes=host_memory_bytes,
        disk=disk,
        host_bytes_per_s=draw(st.sampled_from([128.0, math.inf])),
        compute_slowdown=draw(st.sampled_from([(), (1.0, 1.25, 2.0)])),
        variation=draw(st.sampled_from([0.0, 0.2])),
    )
    effects = draw(st.sampled_from(EFFECTS[1:]))
    count_world(workload, len(devices), policy=policy, mechanism=mechanism_name(mechanism), effects=effects)
    return World(workload, cluster, policy, mechanism, effects, draw(st.integers(0, 3)))


@st.composite
def host_memories(draw: st.DrawFn, workload: Workload) -> tuple[int | None, Disk | None]:
    """Draw host memory that is plenty, just enough for all, or just enough beside a disk."""
    passing = sum(block_bytes(job, key) for job in workload.jobs for key in passing_keys(job))
    sizes = [home_bytes(job, key) for job in workload.jobs for key in state_keys(job)]
    disk = draw(st.none() | DISKS)
    slack = draw(st.integers(0, 8)) * 64
    paged = passing + max(sizes) + slack
    room = draw(st.sampled_from([None, passing + sum(sizes) + slack, *([] if disk is None else [paged] * 3)]))
    return None if room is None else max(1, room), disk


def neediest_unit_bytes(workload: Workload) -> int:
    units = [
        ShardUnit(job.name, phase, shard, minibatch)
        for job in workload.jobs
        for shard in range(len(job.shards))
        for phase in Phase
        for minibatch in (0, 1)
    ]
    return max(unit_bytes(workload.job(unit.job), unit) for unit in units)


class PerturbedCosts:
    """Costs that have nothing to do with the stated ones, yet are the same at every call."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def _draw(self, *what: object) -> float:
        return Random(f"{self._seed} {what}").randrange(0, 16) / 8

    def compute_s(self, unit: ShardUnit, device: int, mode: str | None = None) -> float:
        return self._draw("compute", str(unit), device, mode)

    def copy_s(self, nbytes: int, device: int, direction: str) -> float:
        return self._draw("copy", nbytes, device, direction)

    def fetch_s(self, job: str) -> float:
        return self._draw("fetch", job)

    def update_s(self, job: str, shard: int) -> float:
        return self._draw("update", job, shard)

    def dispatch_s(self) -> float:
        return self._draw("dispatch")

    def slowdown(self, job: str, num_computing: int) -> float:
        return 1.0 + self._draw("slowdown", job, num_computing)

    def variation(self, command: Command) -> float:
        return self._draw("variation", command.lane_key) / 8
