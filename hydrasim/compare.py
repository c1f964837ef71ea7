"""Every policy on one workload, side by side, against what no plan can beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from hydrasim.command import Kind
from hydrasim.contention import Contention
from hydrasim.dag import kinds_of_minibatches, minibatch_dag, whole_path_s
from hydrasim.dataflow import dataflow
from hydrasim.errors import HydraError, PolicyError
from hydrasim.mechanism import DEFAULT_EFFECTS, OURS, Effects, Mechanism
from hydrasim.optimum.bounds import lower_bounds
from hydrasim.planning import make_plan
from hydrasim.policies import Policy, make_policy
from hydrasim.policies import policies as registered
from hydrasim.profile import CostModel, StatedCosts
from hydrasim.simulator import simulate
from hydrasim.workload import ShardUnit, TrainingJob, Workload

if TYPE_CHECKING:
    import pandas as pd

    from hydrasim.cluster import Cluster
    from hydrasim.systems import System
    from hydrasim.timeline import Timeline


_NEXT_TO_NOTHING_S = 1e-12


@dataclass(frozen=True)
class Row:
    """What a policy or rival system came to; all numbers are None, and error says why, when it cannot run the workload.

    ratio_to_bound: makespan over the largest lower bound; None when that is 0, and for
    rival systems, since it bounds plans of whole mini-batches, which some of them split. utilization: compute-busy
    share of the makespan over all devices. num_loads: copies to a device; moved_bytes: both directions.
    """

    policy: str
    work_conserving: bool
    makespan_s: float | None = None
    ratio_to_bound: float | None = None
    utilization: float | None = None
    moved_bytes: int | None = None
    num_loads: int | None = None
    error: str = ""


@dataclass(frozen=True)
class Comparison:
    """One row a policy, with the bounds and the naive prediction for the same world, in seconds."""

    rows: tuple[Row, ...]
    bounds: dict[str, float]
    naive_s: float

    @property
    def bound_s(self) -> float | None:
        """What no plan of whole mini-batches can beat; None under noise, where luck can."""
        return max(self.bounds.values(), default=None)

    @property
    def best(self) -> Row:
        """The row of least makespan; of equal ones, the first.

        Raises:
            PolicyError: no policy can run the workload.
        """
        return min(self._finished(), key=_makespan_s)

    @property
    def worst_work_conserving(self) -> Row:
        """The row of greatest makespan among the policies that never idle a device by design.

        Raises:
            PolicyError: no such policy can run the workload.
        """
        rows = [row for row in self._finished() if row.work_conserving]
        if not rows:
            raise PolicyError("no work-conserving policy was compared.")
        return max(rows, key=_makespan_s)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a policy, columns named as the fields of Row."""
        import pandas as pd

        frame: pd.DataFrame = pd.DataFrame([asdict(row) for row in self.rows], columns=list(Row.__dataclass_fields__))
        return frame

    def _finished(self) -> list[Row]:
        rows = [row for row in self.rows if row.makespan_s is not None]
        if not rows:
            raise PolicyError(f"no policy can run this workload; {self.rows[0].policy}: {self.rows[0].error}")
        return rows


def compare(
    workload: Workload,
    cluster: Cluster,
    policies: Sequence[Policy | str] | None = None,
    *,
    systems: Sequence[System | str] = (),
    costs: CostModel | None = None,
    mechanism: Mechanism = OURS,
    effects: Effects = DEFAULT_EFFECTS,
    seed: int = 0,
    on_policy: Callable[[Row], None] | None = None,
) -> Comparison:
    """Simulate policies, all registered ones by default, on one workload.

    With transfers each makespan is that of the policy's plan (`make_plan`), since a plan is what the
    executor follows; under "theory" the dynamic run's own, which following the plan would not change.
    systems: rivals to simulate in the same world; one that splits mini-batches may beat the bounds, which are
    of plans. on_policy: called with each row as it comes.

    Raises:
        PolicyError: a policy is unknown. SystemRefused: a system is. What goes wrong while one runs lands in its row.
    """
    from hydrasim.systems import System, make_system, simulate_system

    chosen: list[Policy | System] = [make_policy(policy) for policy in (registered() if policies is None else policies)]
    chosen += [make_system(system) if isinstance(system, str) else system for system in systems]
    if not chosen:
        raise PolicyError("there are no policies to compare; name at least one.")
    costs = StatedCosts(workload, cluster, pinned=mechanism.pinned) if costs is None else costs
    transfers = effects != "theory"
    bounds = {} if effects == "noise" else lower_bounds(workload, cluster, costs, effects)
    rows = []
    for policy in chosen:
        try:
            if isinstance(policy, System):
                timeline = simulate_system(workload, cluster, policy, costs=costs, effects=effects, seed=seed)
            elif transfers:
                _, timeline = make_plan(
                    workload, cluster, policy, costs=costs, mechanism=mechanism, effects=effects, seed=seed
                )
            else:
                timeline = simulate(
                    workload, cluster, policy, costs=costs, mechanism=mechanism, effects=effects, seed=seed
                )
            row = _row(policy, timeline, max(bounds.values(), default=None))
        except HydraError as reason:
            row = Row(policy.name, policy.work_conserving, error=str(reason))
        rows.append(row)
        if on_policy is not None:
            on_policy(row)
    return Comparison(
        tuple(rows), bounds, naive_s(workload, cluster, costs, transfers=transfers, pinned=mechanism.pinned)
    )


def naive_s(
    workload: Workload, cluster: Cluster, costs: CostModel, *, transfers: bool = True, pinned: bool = True
) -> float:
    """Predict a makespan from totals alone, in seconds: the yardstick that a simulator has to beat.

    max(total compute / devices, longest job, bytes / bandwidth). The bytes: every unit loads the state
    that it needs once (parameters for a forward, all state otherwise) and every update stores all of it.
    All devices work at once, and share what they share; of loads and stores the busier direction counts, or
    both where they get into each other's way. Work and bytes spread over unequal devices so that all end
    together. Without transfers only the first two.
    """
    devices = range(len(cluster.devices))
    compute, loads, stores = ([0.0] * len(devices) for _ in range(3))
    longest = 0.0
    for job in workload.jobs:
        slowdown = costs.slowdown(job.name, len(devices)) if len(devices) > 1 else 1.0
        longest = max(longest, job.arrival_s + whole_path_s(job, cluster, costs))
        for unit, count in _counted_units(job):
            flow = dataflow(job, unit)
            nbytes = next(need for key, need in flow.reads if key == flow.state)
            for device in devices:
                compute[device] += costs.compute_s(unit, device) * count * slowdown
                if transfers and nbytes:
                    loads[device] += costs.copy_s(nbytes, device, "h2d") * count
                    if flow.updates_state:
                        stores[device] += costs.copy_s(nbytes, device, "d2h") * count
    if not transfers:
        return max(longest, _spread_s(compute))
    contention = Contention(cluster, pinned=pinned)
    together_s = [
        _spread_s([seconds / rate for seconds, rate in zip(alone_s, _rates(contention, devices, kind), strict=True)])
        for alone_s, kind in ((compute, Kind.COMPUTE), (loads, Kind.LOAD), (stores, Kind.STORE))
    ]
    if any(min(_rates(contention, [device], Kind.LOAD, Kind.STORE)) < 1 for device in devices):
        together_s.append(together_s[1] + together_s[2])
    return max(longest, *together_s)


def _counted_units(job: TrainingJob) -> list[tuple[ShardUnit, int]]:
    """Return the units of a mini-batch of each kind, each with how many such mini-batches there are."""
    return [
        (ShardUnit(job.name, phase, shard, minibatch), count)
        for minibatch, count in kinds_of_minibatches(job)
        for phase, shard in minibatch_dag(job, minibatch).nodes
    ]


def _rates(contention: Contention, devices: Sequence[int], *kinds: Kind) -> list[float]:
    """Return how fast each device does what all do at once, device by device."""
    flows = [contention.flow_of(device, kind) for device in devices for kind in kinds]
    shares = iter(contention.shares([flow for flow in flows if flow is not None]))
    return [1.0 if flow is None else next(shares) for flow in flows]


def ratio(makespan_s: float, bound_s: float) -> float | None:
    """Return how many times the bound a makespan is; None where the bound says nothing."""
    return makespan_s / bound_s if bound_s > _NEXT_TO_NOTHING_S else None


def _spread_s(alone_s: list[float]) -> float:
    """Return the seconds of work that each device would take alone_s for, when all of them share it."""
    return 0.0 if min(alone_s) == 0 else 1 / sum(1 / seconds for seconds in alone_s)


def _row(policy: Policy | System, timeline: Timeline, bound_s: float | None) -> Row:
    from hydrasim.systems import System

    return Row(
        policy.name,
        policy.work_conserving,
        timeline.makespan_s,
        None if isinstance(policy, System) or bound_s is None else ratio(timeline.makespan_s, bound_s),
        timeline.utilization(),
        timeline.moved_bytes,
        sum(span.kind == "load" for span in timeline.spans),
    )


def _makespan_s(row: Row) -> float:
    assert row.makespan_s is not None
    return row.makespan_s
