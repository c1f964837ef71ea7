"""From a policy to a plan: run it dynamically, then follow what it did and fill in the memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hydrasim.capacity import check_fits
from hydrasim.dataflow import aligned, home_bytes, passing_keys, state_keys
from hydrasim.errors import ShardTooLarge
from hydrasim.loop import run
from hydrasim.mechanism import DEFAULT_EFFECTS, OURS, Effects, Mechanism
from hydrasim.orchestrator import Orchestrator
from hydrasim.plan import Plan
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import CostModel, StatedCosts
from hydrasim.simulator import sim_backend, simulate
from hydrasim.workload import TrainingJob, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from hydrasim.cluster import Cluster
    from hydrasim.command import Command, Event
    from hydrasim.policies.base import Policy
    from hydrasim.timeline import Timeline


def make_plan(
    workload: Workload,
    cluster: Cluster,
    policy: Policy | str,
    *,
    costs: CostModel | None = None,
    mechanism: Mechanism = OURS,
    effects: Effects = DEFAULT_EFFECTS,
    seed: int = 0,
    profile_digest: str = "",
    commands: list[Command] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> tuple[Plan, Timeline]:
    """Plan a workload with a policy; return the plan and the simulated timeline of following it.

    The policy runs dynamically once; its order of units is then simulated under FollowPlan, because a
    backend that follows the plan knows the next uses and so moves other bytes than the dynamic run did.
    That second timeline is the prediction: its makespan goes into the plan, and so do the offset and the
    evictions of every step, and the activation mode it came to. Its header adds `planned_by`, the policy,
    `peak_bytes`, per device the most that lay in its arena plus the greatest activation peak of the units that
    run there, and `host_peak_bytes`, the most that lay in host memory.

    Under effects "theory" nothing lies in memory, so steps keep no offsets and both peaks are absent.
    commands: a list that receives the commands of the second run. on_event: sees both runs.

    Raises:
        ShardTooLarge: a unit cannot fit its device. HostMemoryTooSmall: the jobs cannot fit host memory and disk.
        PolicyError: the policy misbehaved.
    """
    costs = StatedCosts(workload, cluster, pinned=mechanism.pinned) if costs is None else costs
    dynamic = simulate(
        workload, cluster, policy, costs=costs, mechanism=mechanism, effects=effects, seed=seed, on_event=on_event
    )
    order = Plan.of(dynamic, workload, cluster, profile_digest)
    orchestrator = Orchestrator(
        workload, cluster, FollowPlan(order), costs, mechanism=mechanism, effects=effects, seed=seed
    )
    backend = sim_backend(workload, cluster, costs, effects, pinned=mechanism.pinned, seed=seed)
    timeline = run(orchestrator, backend, commands=commands, on_event=on_event, seed=seed, planned_by=order.policy)
    if orchestrator.residency is not None:
        working = _working_bytes(order, workload)
        peaks = [arena.peak_bytes + w for arena, w in zip(orchestrator.residency.arenas, working, strict=True)]
        found = {"peak_bytes": peaks, "host_peak_bytes": orchestrator.residency.host.peak_bytes}
        timeline = replace(timeline, header=timeline.header | found)
    return _filled(order, orchestrator, timeline.makespan_s), timeline


def misfits(workload: Workload, cluster: Cluster, mechanism: Mechanism = OURS) -> dict[str, str]:
    """Return why each job that cannot fit the cluster's devices does not, by job name.

    Every job is held against what the devices offer next to the whole workload's activation peak.
    """
    found: dict[str, str] = {}
    for job in workload.jobs:
        # A job alone would be offered more memory than it gets beside the others.
        shards = tuple(replace(shard, working_bytes=workload.working_bytes) for shard in job.shards)
        try:
            check_fits(Workload((replace(job, shards=shards),)), cluster, mechanism)
        except ShardTooLarge as reason:
            found[job.name] = str(reason)
    return found


def host_bytes(job: TrainingJob) -> int:
    """Return the host memory that a job's data takes at most: its state and what units hand on."""
    return sum(home_bytes(job, key) for key in (*state_keys(job), *passing_keys(job)))


def _working_bytes(plan: Plan, workload: Workload) -> list[int]:
    """Return per device the greatest activation peak of the shards that it runs."""
    shards = [{(step.unit.job, step.unit.shard) for step in steps} for steps in plan.devices]
    return [
        aligned(max((workload.job(job).shards[shard].working_bytes for job, shard in mine), default=0))
        for mine in shards
    ]


def _filled(plan: Plan, orchestrator: Orchestrator, makespan_s: float) -> Plan:
    """Return the plan with the memory and makespan that following it came to."""
    assert orchestrator.following is not None
    memory_of = orchestrator.following.memory_of
    devices = tuple(
        tuple(
            replace(step, mode=found.mode, offset=found.offset, evict=found.evict)
            if (found := memory_of.get(step.unit))
            else step
            for step in steps
        )
        for steps in plan.devices
    )
    return replace(plan, devices=devices, makespan_s=makespan_s)
