"""The unit DAG of one mini-batch: what must precede what, and how long the chain is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrasim.workload import Phase, ShardUnit, TrainingJob

if TYPE_CHECKING:
    import networkx as nx

    from hydrasim.cluster import Cluster
    from hydrasim.profile import CostModel

Node = tuple[Phase, int]  # a unit without its job and mini-batch


def minibatch_dag(job: TrainingJob) -> nx.DiGraph[Node]:
    """Build the DAG of one mini-batch: F0 .. L(S-1) .. B0 fused, or F0 .. F(S-1) B(S-1) .. B0."""
    import networkx as nx

    last = len(job.shards) - 1
    forward = [(Phase.FORWARD, shard) for shard in range(last + (0 if job.fused else 1))]
    turn = [(Phase.LOSS, last)] if job.fused else [(Phase.BACKWARD, last)]
    backward = [(Phase.BACKWARD, shard) for shard in range(last - 1, -1, -1)]
    dag: nx.DiGraph[Node] = nx.DiGraph()
    nx.add_path(dag, forward + turn + backward)
    return dag


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


def whole_path_s(job: TrainingJob, cluster: Cluster, costs: CostModel) -> float:
    """Return the seconds of all mini-batches, one after another; the first may have times of its own."""
    later = job.num_minibatches - 1
    later_s = later * critical_path_s(job, cluster, costs, minibatch=1) if later else 0.0
    return critical_path_s(job, cluster, costs) + later_s


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

    dag = minibatch_dag(job) if dag is None else dag
    finish: dict[Node, float] = {}
    for node in nx.topological_sort(dag):
        unit = ShardUnit(job.name, node[0], node[1], minibatch)
        fastest = min(costs.compute_s(unit, index) for index in range(len(cluster.devices)))
        finish[node] = fastest + max((finish[before] for before in dag.predecessors(node)), default=0.0)
    return max(finish.values())
