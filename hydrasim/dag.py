"""The unit DAG of one mini-batch: what must precede what, and how long the chain is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.workload import Phase, ShardUnit, TrainingJob

if TYPE_CHECKING:
    import networkx as nx

    from hydrasim.cluster import Cluster
    from hydrasim.profile import CostModel
    from hydrasim.schedule import Schedule

Node = tuple[Phase, int]  # a unit without its job and mini-batch


def minibatch_dag(job: TrainingJob, minibatch: int | None = None) -> nx.DiGraph[Node]:
    """Build the DAG of one mini-batch: F0 .. L(S-1) .. B0 fused, or F0 .. F(S-1) B(S-1) .. B0; then U0 .. U(S-1).

    minibatch: which one, since the optimizer may not step after all of them, and some are to evaluate on, which are
    E0 .. E(S-1); by default one after which it does.
    """
    if minibatch is not None and job.schedule.is_evaluation(minibatch):
        return _evaluation_dag(job)
    return _dag(job, job.update_units and (minibatch is None or job.schedule.steps_after(minibatch)))


def _dag(job: TrainingJob, with_step: bool) -> nx.DiGraph[Node]:
    last = len(job.shards) - 1
    forward = [(Phase.FORWARD, shard) for shard in range(last + (0 if job.fused else 1))]
    turn = [(Phase.LOSS, last)] if job.fused else [(Phase.BACKWARD, last)]
    backward = [(Phase.BACKWARD, shard) for shard in range(last - 1, -1, -1)]
    update = [(Phase.UPDATE, shard) for shard in range(last + 1)] if with_step else []
    return _path(forward + turn + backward + update)


def _evaluation_dag(job: TrainingJob) -> nx.DiGraph[Node]:
    return _path([(Phase.EVALUATE, shard) for shard in range(len(job.shards))])


def _path(nodes: list[Node]) -> nx.DiGraph[Node]:
    import networkx as nx

    dag: nx.DiGraph[Node] = nx.DiGraph()
    nx.add_path(dag, nodes)
    return dag


def kinds_of_minibatches(job: TrainingJob) -> list[tuple[int, int]]:
    """Return a mini-batch of each kind and how many there are of it.

    The kinds: the first one, for which a cost model may charge more, those with a step, those without, and those to
    evaluate on. All of a kind have the same units at the same costs.
    """
    schedule, rest = job.schedule, range(1, job.num_minibatches)
    num_stepping = schedule.num_steps - schedule.steps_after(0)
    counts = {
        (True, False): num_stepping,
        (False, False): schedule.num_trained - 1 - num_stepping,
        (False, True): schedule.num_minibatches - schedule.num_trained,
    }
    return [(0, 1)] + [
        (next(n for n in rest if (schedule.steps_after(n), schedule.is_evaluation(n)) == kind), count)
        for kind, count in counts.items()
        if count
    ]


def is_last_forward(job: TrainingJob, unit: ShardUnit) -> bool:
    """Tell whether the unit is the last of its mini-batch to draw random numbers, which the loader waits for."""
    turns = (Phase.LOSS if job.fused else Phase.FORWARD, Phase.EVALUATE)
    return unit.shard == len(job.shards) - 1 and unit.phase in turns


class Template:
    """A mini-batch DAG laid out for fast look-ups; nodes keep one topological order."""

    def __init__(self, dag: nx.DiGraph[Node]) -> None:
        import networkx as nx

        position = {node: index for index, node in enumerate(dag.nodes)}
        self.nodes: tuple[Node, ...] = tuple(nx.lexicographical_topological_sort(dag, key=position.__getitem__))
        index = {node: i for i, node in enumerate(self.nodes)}
        self.index = index
        self.predecessors = tuple(frozenset(index[p] for p in dag.predecessors(node)) for node in self.nodes)
        self.successors = tuple(tuple(sorted(index[s] for s in dag.successors(node))) for node in self.nodes)
        self.sources = tuple(i for i, before in enumerate(self.predecessors) if not before)
        self.uses = {
            shard: tuple(i for i, node in enumerate(self.nodes) if node[1] == shard) for _, shard in self.nodes
        }


@dataclass(frozen=True)
class Templates:
    """The kinds of mini-batches of a job: after which the optimizer steps, others, and those to evaluate on.

    The first two are mostly one.
    """

    with_step: Template
    without_step: Template
    evaluation: Template
    schedule: Schedule

    @classmethod
    def of_job(cls, job: TrainingJob, dag: nx.DiGraph[Node] | None = None) -> Templates:
        """Return a job's templates; dag: in place of its own mini-batches'."""
        if dag is not None or not job.update_units:
            with_step = without_step = Template(minibatch_dag(job) if dag is None else dag)
        else:
            with_step, without_step = Template(_dag(job, True)), Template(_dag(job, False))
        return cls(with_step, without_step, Template(_evaluation_dag(job)), job.schedule)

    def of(self, minibatch: int) -> Template:
        if self.schedule.is_evaluation(minibatch):
            return self.evaluation
        return self.with_step if self.schedule.steps_after(minibatch) else self.without_step


def whole_path_s(job: TrainingJob, cluster: Cluster, costs: CostModel) -> float:
    """Return the seconds of all mini-batches, one after another; the first may have times of its own."""
    kinds = kinds_of_minibatches(job)
    return sum(count * critical_path_s(job, cluster, costs, minibatch=minibatch) for minibatch, count in kinds)


def critical_path_s(
    job: TrainingJob,
    cluster: Cluster,
    costs: CostModel,
    dag: nx.DiGraph[Node] | None = None,
    *,
    minibatch: int = 0,
) -> float:
    """Return the seconds of one mini-batch on unlimited copies of each unit's fastest device."""
    import networkx as nx

    dag = minibatch_dag(job, minibatch) if dag is None else dag
    finish: dict[Node, float] = {}
    for node in nx.topological_sort(dag):
        unit = ShardUnit(job.name, node[0], node[1], minibatch)
        fastest = min(costs.compute_s(unit, index) for index in range(len(cluster.devices)))
        finish[node] = fastest + max((finish[before] for before in dag.predecessors(node)), default=0.0)
    return max(finish.values())
