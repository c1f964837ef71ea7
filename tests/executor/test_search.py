"""Cuts that are searched for: balanced, never foretold to end later than the greedy ones, and of the same bits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from torch import nn

from executor import CpuDevice, DevicePool, prepare, train
from executor.foretell import foretold_s
from executor.partition import cut_at
from executor.search import balanced_cuts, searched
from hydrasim.errors import HydraError
from hydrasim.mechanism import OURS
from hydrasim.simulator import simulate
from tests.executor.worlds import differences, expected, pairs, perceptron, small_job

RATE = 1e9


def heaviest(weights, cuts):
    return max(sum(weights[low:high]) for low, high in itertools.pairwise([0, *cuts, len(weights)]))


@pytest.mark.parametrize("weights", [[1], [3, 1, 4, 1, 5, 9, 2, 6], [5, 0, 0, 5], [1, 1, 1, 9]])
def test_the_heaviest_shard_is_as_light_as_can_be(weights):
    for count in range(1, len(weights) + 1):
        cuts = balanced_cuts(weights, count)
        assert len(cuts) == count - 1
        assert list(cuts) == sorted({*cuts} & set(range(1, len(weights))))
        every = itertools.combinations(range(1, len(weights)), count - 1)
        assert heaviest(weights, cuts) == min(heaviest(weights, each) for each in every)


def job(name="A", cuts=None):
    model = perceptron(*[64] * 9)
    return small_job(name, model=model, dataloader=pairs(4, 64, 64, batch=64), cuts=cuts, steps=2)


def tight():
    return prepare([job("A"), job("B")], [CpuDevice(300_000)])


def test_the_choice_is_never_foretold_to_end_later_than_the_greedy_cuts(monkeypatch):
    monkeypatch.setattr("executor.search.core_copy_bytes_per_s", lambda: RATE)
    greedy = tight()
    found = searched(greedy, lambda parts: replace(greedy, partitions=tuple(parts)))
    assert foretold_s(found, RATE) <= foretold_s(greedy, RATE)


def test_the_soonest_of_what_was_tried_is_chosen(monkeypatch):
    greedy = tight()
    num_shards = len(greedy.partitions[0].shards)
    seconds = {num_shards: 3.0, num_shards * 2: 1.0}
    monkeypatch.setattr(
        "executor.search.foretold_s", lambda prepared, _: seconds.get(len(prepared.partitions[0].shards), 2.0)
    )
    found = searched(greedy, lambda parts: replace(greedy, partitions=tuple(parts)))
    assert [len(part.shards) for part in found.partitions] == [num_shards * 2] * 2


def test_what_does_not_fit_is_not_chosen():
    greedy = tight()
    whole = [cut_at(part.pilot, ()) for part in greedy.partitions]
    found = searched(greedy, lambda parts: replace(greedy, partitions=tuple(whole)))
    assert found is greedy


def test_the_users_cuts_stay():
    prepared = prepare([job(cuts=(1, 4))], [CpuDevice(1 << 20)], partitioner="search")
    assert prepared.partitions[0].cuts == (1, 4)


def test_training_in_searched_cuts_gives_the_plain_loops_bits():
    jobs, devices = [job("A"), job("B")], [CpuDevice(300_000)]
    answers = [expected(each) for each in jobs]
    with DevicePool(devices) as pool:
        result = train(prepare(jobs, devices, partitioner="search"), pool=pool)
    assert sum((differences(each, result, answer) for each, answer in zip(jobs, answers, strict=True)), []) == []


def test_layers_that_share_statistics_are_not_cut_apart():
    norm = nn.BatchNorm1d(64)
    layers = [nn.Linear(64, 64), norm, nn.Linear(64, 64), norm, nn.Linear(64, 2)]
    made = small_job("A", model=layers, dataloader=pairs(2, 64, 2, batch=8), cuts=None, steps=2)
    prepared = prepare([made], [CpuDevice(1 << 20)], partitioner="search")
    assert prepared.partitions[0].cuts == ()


def test_cuts_leave_the_loading_zone_free():
    jobs, zone = [job("A"), job("B")], 0.4
    prepared = prepare(jobs, [CpuDevice(300_000)], partitioner="search", loading_zone_fraction=zone)
    mechanism = replace(OURS, loading_zone_fraction=zone)
    assert simulate(prepared.workload, prepared.cluster, "fifo", mechanism=mechanism).makespan_s > 0


def test_a_partitioner_that_does_not_exist_is_named():
    with pytest.raises(HydraError, match="partitioner is 'magic'; it is greedy or search"):
        prepare([job()], [CpuDevice(1 << 20)], partitioner="magic")
