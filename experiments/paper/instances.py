"""The small instances of the figure `optimum`, each drawn from a seed, and what CP-SAT says of them.

Nothing is kept but what the solver found: the order of units and the bound that it proved. The plan is simulated anew
each time, so that a makespan is always one of the present simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from experiments.paper.solved import Answer, digest_of, settings, stated
from hydrasim import Cluster, Device, Link, Plan, Shard, ShardUnit, TrainingJob, Workload
from hydrasim.mechanism import OURS
from hydrasim.optimum import find_optimum
from hydrasim.plan import Step
from hydrasim.planning import make_plan
from hydrasim.policies.follow_plan import FollowPlan

if TYPE_CHECKING:
    from hydrasim.mechanism import Effects
    from hydrasim.timeline import Timeline

NUM_WORLDS = 52  # each with and without transfers
TIME_LIMIT_S = 6.0  # for an instance, in the solver's deterministic time

_MAX_UNITS = {False: 40, True: 14}  # of an instance, by transfers
_BLOCK_BYTES = 64
_VERSION = 1  # of the model that proved the bounds


@dataclass(frozen=True)
class Instance:
    """A small world. kind: whether its devices are equally fast."""

    name: str
    kind: str
    effects: Effects
    workload: Workload
    cluster: Cluster

    @property
    def transfers(self) -> bool:
        return self.effects != "theory"

    @property
    def digest(self) -> str:
        """A hash of all that determines the solver's answer."""
        fields = [_VERSION, TIME_LIMIT_S, self.effects, settings(OURS), stated(self.workload), settings(self.cluster)]
        return digest_of(fields)


def instance(seed: int, *, transfers: bool) -> Instance:
    """Draw 3 to 8 jobs of 1 to 4 shards on 2 to 4 devices; every other one has devices of two speeds.

    All times are multiples of a quarter of a second. With transfers all shards of an instance weigh the same, a load or
    a store takes 1 to 4 s, and a device holds 1, 2 or 3 shards; what units hand on weighs nothing.
    """
    rng, kind = Random(f"optimum {seed} {transfers}"), "heterogeneous" if seed % 2 else "homogeneous"
    num_jobs, num_devices, left = rng.randint(3, 8), rng.randint(2, 4), _MAX_UNITS[transfers]
    parameter_bytes = _BLOCK_BYTES * rng.randint(1, 4) if transfers else 0
    jobs = []
    for index in range(num_jobs):
        shards, minibatches = rng.randint(1, 4), rng.randint(1, 3)
        while (2 * shards - 1) * minibatches > left - (num_jobs - index - 1):  # a unit at least for each that follows
            shards, minibatches = (shards, minibatches - 1) if minibatches > 1 else (shards - 1, 1)
        left -= (2 * shards - 1) * minibatches
        seconds = [(rng.randint(1, 8) / 2, rng.randint(1, 8) / 2) for _ in range(shards)]
        cut = tuple(Shard(forward, backward, parameter_bytes=parameter_bytes) for forward, backward in seconds)
        jobs.append(TrainingJob(f"j{index}", cut, minibatches))
    link = Link(float(_BLOCK_BYTES))
    memory_bytes = parameter_bytes * rng.randint(1, 3) if transfers else 1
    speeds = [1.0 if kind == "homogeneous" else rng.choice([1.0, 2.0]) for _ in range(num_devices)]
    devices = tuple(Device(memory_bytes, speed, h2d=link, d2h=link) for speed in speeds)
    name = f"{'transfers' if transfers else 'theory'}-{seed:02}"
    return Instance(name, kind, "transfers" if transfers else "theory", Workload(tuple(jobs)), Cluster(devices))


def instances(num_worlds: int = NUM_WORLDS) -> list[Instance]:
    """Return the first so many without transfers, then as many with them."""
    return [instance(seed, transfers=transfers) for transfers in (False, True) for seed in range(num_worlds)]


def named(name: str) -> Instance:
    """Return the instance of that name."""
    effects, _, seed = name.rpartition("-")
    return instance(int(seed), transfers=effects == "transfers")


def solve(item: Instance) -> Answer:
    """Return what the solver says of an instance."""
    found = find_optimum(item.workload, item.cluster, effects=item.effects, time_limit_s=TIME_LIMIT_S)
    return {
        "instance": item.name,
        "bound_s": found.bound_s,
        "solver": "bound" if found.model.status == "NOT NEEDED" else found.solver,
        "model_status": found.model.status,
        "order": [[str(step.unit) for step in steps] for steps in found.plan.devices],
    }


def followed(item: Instance, answer: Answer) -> Timeline:
    """Simulate the plan that the solver found."""
    devices = tuple(tuple(Step(ShardUnit.parse(unit)) for unit in units) for units in answer["order"])
    plan = Plan(devices, item.workload.digest, item.cluster.digest)
    return make_plan(item.workload, item.cluster, FollowPlan(plan), effects=item.effects)[1]
