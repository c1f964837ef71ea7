"""Unit chains, their templates, and lower bounds on the makespan."""

from __future__ import annotations

import networkx as nx
import pytest

from hydrasim import Cluster, Device, Link, Phase, Shard, TrainingJob
from hydrasim.dag import Template, critical_path_s, lower_bounds, minibatch_dag
from hydrasim.profile import StatedCosts
from tests.worlds import BLOCK, BYTE_A_SECOND, devices, fig6, job, workload

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


def test_the_bounds_of_fig6():
    # three jobs of 4 s each on two devices: no job in less than 4, 12 s of work in no less than 6
    two = devices(2)
    assert lower_bounds(fig6(), two, StatedCosts(fig6(), two)) == {"longest_job": 4.0, "area": 6.0}


def bound_s(shard: Shard, *, fused: bool, **fields: object) -> float:
    cluster = devices(1, link=BYTE_A_SECOND)
    jobs = workload(TrainingJob("A", (shard,), 1, fused=fused, activation_mode="keep", **fields))
    return lower_bounds(jobs, cluster, StatedCosts(jobs, cluster), transfers=True)["longest_job"]


def test_with_transfers_state_arrives_before_and_leaves_after():
    # h2d wwoo    . .        64 + 64 bytes in, at a byte a second
    # comp     L             2 s
    # d2h        wwoo        and out again
    assert bound_s(Shard(1.0, 1.0, BLOCK, BLOCK), fused=True) == 128 + 2 + 128


def test_an_unfused_first_unit_does_not_wait_for_optimizer_state():
    # h2d ww oo              the optimizer's half may arrive under F
    # comp   F B             so the bound counts the parameters alone before F
    assert bound_s(Shard(1.0, 1.0, BLOCK, BLOCK), fused=False) == 64 + 2 + 128


def test_a_slow_loader_counts_instead_of_a_quicker_load():
    assert bound_s(Shard(1.0, 1.0, BLOCK), fused=True, fetch_s=100.0) == 100 + 2 + 64


def test_bytes_that_do_not_exist_cost_no_latency():
    cluster = devices(1, link=Link(latency_s=1.0))
    jobs = workload(job())
    assert lower_bounds(jobs, cluster, StatedCosts(jobs, cluster), transfers=True)["longest_job"] == 2.0
