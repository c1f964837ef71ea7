"""`simulate`: the orchestrator's commands in a simulated world, at the cost model's seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hydrasim.charging import Seconds, charging, noisy
from hydrasim.command import Command, DeviceBack, DeviceLost, Event, Happening, JobArrived
from hydrasim.contention import Contention
from hydrasim.errors import ProfileError, WorkloadError
from hydrasim.loop import run
from hydrasim.mechanism import DEFAULT_EFFECTS, OURS, Effects, Mechanism, includes
from hydrasim.orchestrator import Orchestrator
from hydrasim.profile import MAX_SECONDS, CostModel, StatedCosts, label_of
from hydrasim.sim_backend import SimBackend
from hydrasim.workload import Workload, check_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    import networkx as nx

    from hydrasim.cluster import Cluster
    from hydrasim.dag import Node
    from hydrasim.policies.base import Policy
    from hydrasim.timeline import Timeline


def simulate(
    workload: Workload,
    cluster: Cluster,
    policy: Policy | str,
    *,
    costs: CostModel | None = None,
    beliefs: CostModel | None = None,
    mechanism: Mechanism = OURS,
    effects: Effects = DEFAULT_EFFECTS,
    seed: int = 0,
    dags: Mapping[str, nx.DiGraph[Node]] | None = None,
    happenings: Sequence[Happening | DeviceLost | DeviceBack] = (),
    commands: list[Command] | None = None,
    on_event: Callable[[Event], None] | None = None,
    keep_spans: bool = True,
) -> Timeline:
    """Simulate a policy on a workload and return its timeline; times are in seconds.

    policy: a policy object or its registered name. costs: what the simulated world charges, the stated
    costs by default. beliefs: the costs that the policy sees, by default the same. seed: of random
    policies and of noise. dags: replacements for jobs' mini-batch DAGs. happenings: when jobs are told to end with the
    mini-batch at which they are, to rest, or to go on, at 0 before anything begins; and when devices fail and come
    back. commands, on_event, keep_spans: see `hydrasim.loop.run`.

    Raises:
        ShardTooLarge: a unit cannot fit its device. PolicyError: the policy misbehaved. WorkloadError: there
        are too many units. ProfileError: the costs hold something that is no time.
    """
    from hydrasim.policies import make_policy

    check_size(workload)
    costs = StatedCosts(workload, cluster, pinned=mechanism.pinned) if costs is None else costs
    orchestrator = Orchestrator(
        workload, cluster, make_policy(policy), costs if beliefs is None else beliefs,
        mechanism=mechanism, effects=effects, seed=seed, dags=dags,
    )  # fmt: skip
    backend = sim_backend(workload, cluster, costs, effects, pinned=mechanism.pinned, seed=seed, happenings=happenings)
    for event in happenings:
        if isinstance(event, Happening) and not event.at_s:
            orchestrator.heed(event)
    label = label_of(costs)
    return run(
        orchestrator, backend, commands=commands, on_event=on_event, keep_spans=keep_spans, seed=seed, costs=label
    )


def sim_backend(
    workload: Workload,
    cluster: Cluster,
    costs: CostModel,
    effects: Effects,
    *,
    pinned: bool = True,
    seed: int = 0,
    seconds: Seconds | None = None,
    happenings: Sequence[Happening | DeviceLost | DeviceBack] = (),
) -> SimBackend:
    """Return the simulated world that charges these costs, with these effects.

    seed: of noise. seconds: what commands take alone, by default what the costs say. happenings: see `simulate`.

    Raises:
        WorkloadError: something happens to an unknown job or device, or at no moment.
        ProfileError: the dispatch is no time, or, once it is asked for, a slowdown no factor.
    """

    def slowdown(job: str, num_computing: int) -> float:
        factor = costs.slowdown(job, num_computing)
        if 1 <= factor <= MAX_SECONDS:
            return factor
        raise ProfileError(f"the costs say that job {job!r} is slowed down {factor} times; it must be at least 1.")

    contention = Contention(cluster, slowdown, pinned=pinned) if includes(effects, "contention") else None
    dispatch_s = costs.dispatch_s() if includes(effects, "overheads") else 0.0
    if not 0 <= dispatch_s <= MAX_SECONDS:
        raise ProfileError(
            f"the costs say that dispatch takes {dispatch_s} s; it must be from 0 to {MAX_SECONDS:.0e} s."
        )
    alone = charging(costs, cluster) if seconds is None else seconds
    charged = noisy(alone, costs, seed) if includes(effects, "noise") else alone
    for event in happenings:
        if isinstance(event, Happening):
            what = f"job {workload.job(event.job).name!r} is told"
        else:
            what = f"device {event.device} fails or comes back"
            if not 0 <= event.device < len(cluster.devices):
                raise WorkloadError(f"{what}; there are {len(cluster.devices)}.")
        if not 0 <= event.at_s <= MAX_SECONDS:
            raise WorkloadError(f"{what} at {event.at_s} s; it must be from 0 to {MAX_SECONDS:.0e} s.")
    told = [*arrivals(workload), *(e for e in happenings if e.at_s or not isinstance(e, Happening))]
    return SimBackend(charged, contention, lambda _, cause: 0.0 if cause is None else dispatch_s, told)


def arrivals(workload: Workload) -> list[Happening]:
    """Return when the jobs are submitted that are not there at the start."""
    return [JobArrived(job.name, job.arrival_s) for job in workload.jobs if job.arrival_s]
