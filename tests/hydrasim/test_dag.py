"""Unit chains, their templates, and how long they take."""

from __future__ import annotations

import networkx as nx
import pytest

from hydrasim import Cluster, Device, Phase
from hydrasim.dag import Template, critical_path_s, minibatch_dag
from hydrasim.profile import StatedCosts
from tests.worlds import devices, job, workload

F, L, B = Phase.FORWARD, Phase.LOSS, Phase.BACKWARD


@pytest.mark.parametrize(
    ("shards", "fused", "chain"),
    [
        (1, True, [(L, 0)]),
        (1, False, [(F, 0), (B, 0)]),
        (2, True, [(F, 0), (L, 1), (B, 0)]),
        (2, False, [(F, 0), (F, 1), (B, 1), (B, 0)]),
        (3, True, [(F, 0), (F, 1), (L, 2), (B, 1), (B, 0)]),
    ],
)
def test_a_minibatch_is_a_chain_forward_and_back(shards: int, fused: bool, chain: list[tuple[Phase, int]]):
    dag = minibatch_dag(job(shards=shards, fused=fused))
    assert list(nx.topological_sort(dag)) == chain
    assert nx.dag_longest_path_length(dag, default_weight=1) == len(chain) - 1


def test_a_template_keeps_the_order_of_the_nodes_and_knows_neighbours_and_uses():
    template = Template(minibatch_dag(job(shards=2)))
    assert template.nodes == ((F, 0), (L, 1), (B, 0))
    assert template.sources == (0,)
    assert template.predecessors == (frozenset(), {0}, {1})
    assert template.successors == ((1,), (2,), ())
    assert template.uses == {0: (0, 2), 1: (1,)}


def test_a_template_with_a_missing_edge_has_two_sources():
    dag = minibatch_dag(job(shards=2))
    dag.remove_edge((F, 0), (L, 1))
    assert Template(dag).sources == (0, 1)


def test_the_critical_path_takes_each_units_fastest_device():
    # F0 1 s + L1 2 s + B0 1 s, on devices of speed 1 and 2
    cluster = Cluster((Device(1), Device(1, speed=2.0)))
    chain = job(shards=2)
    assert critical_path_s(chain, cluster, StatedCosts(workload(chain), cluster)) == 2.0


def test_without_edges_only_the_longest_unit_is_critical():
    dag = nx.create_empty_copy(minibatch_dag(job(shards=2)))
    one = devices(1)
    assert critical_path_s(job(shards=2), one, StatedCosts(workload(job(shards=2)), one), dag) == 2.0
