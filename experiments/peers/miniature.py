"""The same race simulated: each rival that hydrasim has a model of, and ours, at costs measured on this machine.

Layers are profiled one by one, since rivals cut and gather by layer; ours is profiled in the shards that it trains in.
Devices are cores: copies go at memory speed, ranks exchange at the speed of gloo, the host's optimizer at that of
memory. Only mini-batches after the first are charged, since a race times no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from executor import Prepared
from executor.copying import core_copy_bytes_per_s
from executor.profiler import profile as measure
from experiments.peers.contender import Options, Task
from experiments.peers.contenders.ours import prepare_for_peers, stopped_after
from experiments.peers.team import Limits, Team
from hydrasim.cluster import Cluster, Link
from hydrasim.errors import HydraError
from hydrasim.profile import Profile
from hydrasim.simulator import simulate
from hydrasim.systems import System, simulate_system
from hydrasim.systems.ddp import DDP
from hydrasim.systems.fsdp_offload import FSDPOffload
from hydrasim.systems.gpipe import GPipe
from hydrasim.systems.one_f_one_b import OneFOneB
from hydrasim.systems.zero3_offload import Zero3Offload

_PLENTY_BYTES = 1 << 40
_POLICIES = {"task-parallel-spilling": "task-parallel"}  # rivals that are a policy of ours
_PROBE = "experiments.peers.probe:Probe"


def system_of(name: str, options: Options) -> System | None:
    """Return hydrasim's model of a rival as it was set; None where it has none."""
    microbatches = options.get("microbatches")
    return {
        "gpipe": GPipe(microbatches, recompute="never"),
        "gpipe-equal-memory": GPipe(microbatches, recompute="always"),
        "1f1b": OneFOneB(microbatches, recompute="never"),
        "ddp": DDP(bucket_view=True),
        "fsdp2-offload": FSDPOffload(recompute=False),
        "zero3-offload": Zero3Offload(recompute=False),
    }.get(name)


def simulate_race(
    task: Task, options_of: Mapping[str, Options], *, limits: Limits, rounds: int = 3, minibatches: int = 3
) -> dict[str, dict[str, Any]]:
    """Simulate ours and rivals in their settings; return tokens/s and ours over each, or why it was refused.

    rounds, minibatches: of the profiles.

    Raises:
        HydraError: a profile could not be measured.
    """
    workload = task.workload
    jobs = [workload.job(spec, task.optimizer) for spec in workload.specs]
    layers = [replace(job, cuts=tuple(range(1, len(job.layers)))) for job in jobs]
    ours, layered = (prepare_for_peers(workload, task.optimizer, some) for some in (jobs, layers))
    own_profile, profile = (_settled(measure(p, rounds=rounds, minibatches=minibatches)) for p in (ours, layered))
    ours, layered = (stopped_after(prepared, workload.minibatches) for prepared in (ours, layered))
    cluster = _cluster(layered, _exchange(task, limits))
    costs = profile.costs(cluster)

    def policy_s(policy: str) -> float:
        return simulate(ours.workload, ours.cluster, policy, costs=own_profile.costs(ours.cluster)).makespan_s

    def system_s(system: System) -> float:
        # The overheads above contention are our executor's hand-overs between processes, which no rival has.
        return simulate_system(layered.workload, cluster, system, costs=costs, effects="contention").makespan_s

    found: dict[str, dict[str, Any]] = {}
    ours_s = policy_s(task.policy)
    for name, options in options_of.items():
        system = system_of(name, options)
        if system is None and name not in _POLICIES:
            continue
        try:
            seconds = policy_s(_POLICIES[name]) if system is None else system_s(system)
        except HydraError as reason:
            found[name] = {"refused": str(reason)}
        else:
            found[name] = {
                "tokens_per_s": workload.num_tokens / seconds,
                "ours_tokens_per_s": workload.num_tokens / ours_s,
                "ratio": seconds / ours_s,
                "simulated_as": _POLICIES[name] if system is None else str(system),
            }
    return found


def _settled(profile: Profile) -> Profile:
    """Return a profile that charges a first mini-batch as any other."""
    return replace(profile, kinds={name: replace(kind, first_units={}) for name, kind in profile.kinds.items()})


def _exchange(task: Task, limits: Limits) -> Link:
    """Measure what two ranks exchange over gloo."""
    with Team(_PROBE, task, limits=limits) as team:
        team.begin({})
        found = team.facts()
    return Link(found["bytes_per_s"], latency_s=found["latency_s"])


def _cluster(prepared: Prepared, peer: Link) -> Cluster:
    """Return this machine as rivals see it: room for whole models, links between ranks, memory with a speed."""
    core_bytes_per_s = core_copy_bytes_per_s()
    devices = tuple(replace(d, memory_bytes=_PLENTY_BYTES, peer=peer) for d in prepared.cluster.devices)
    return replace(
        prepared.cluster,
        devices=devices,
        core_copy_bytes_per_s=core_bytes_per_s,
        host_bytes_per_s=2 * core_bytes_per_s * len(devices),  # each core reads and writes
    )
