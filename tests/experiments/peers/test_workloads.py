"""The workloads are what the figures say they are."""

from __future__ import annotations

import pytest
import torch

from experiments.peers.contenders.ideal import deal
from experiments.peers.registry import rival_names
from experiments.peers.workloads import OPTIMIZERS, WORKLOADS, find_workload
from hydrasim.errors import HydraError
from tests.experiments.peers.worlds import TINY


def test_w_is_what_the_design_says():
    found = WORKLOADS["W"]
    assert [(spec.width, spec.depth, spec.num_heads) for spec in found.specs] == [(384, 8, 6)] * 4
    assert (found.batch_size, found.context, found.budget_fraction) == (8, 128, 0.5)
    assert found.num_weights(found.specs[0]) == pytest.approx(14.4e6, rel=0.01)


@pytest.mark.parametrize("spec", TINY.specs, ids=lambda spec: spec.name)
def test_weights_are_counted_as_the_model_has_them(spec):
    assert TINY.num_weights(spec) == sum(p.numel() for p in TINY.model(spec).parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_what_a_step_leaves(name):
    spec = max(TINY.specs, key=TINY.num_weights)
    model = TINY.model(spec)
    optimizer = OPTIMIZERS[name](model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v) and v.dim()]
    held = [*model.parameters(), *(p.grad for p in model.parameters()), *moments]
    assert TINY.state_bytes(name) == sum(tensor.nbytes for tensor in held)


def test_mini_batches_come_in_the_same_order_and_draw_nothing_random():
    torch.manual_seed(0)
    first, again = (list(TINY.loader()) for _ in range(2))
    assert len(first) == 2
    assert all(
        torch.equal(a, b) for one, other in zip(first, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert not torch.equal(first[0][0], first[1][0])


def test_every_rival_of_a_workload_exists_and_the_issues_are_all_there():
    wanted = "ideal gpipe gpipe-equal-memory 1f1b zero3-offload fsdp2-offload ddp task-parallel-spilling"
    # In other settings, for the executor's own speed.
    ours = "ours-alone ours-host-updates ours-searched ours-searched-alone ideal-alone"
    assert sorted(rival_names()) == sorted([*wanted.split(), *ours.split()])
    assert all(set(workload.rivals) <= set(wanted.split()) for workload in WORKLOADS.values())
    assert sorted(WORKLOADS["W-het"].rivals) == sorted(wanted.split())


def test_however_w_het_is_dealt_a_device_idles():
    found = WORKLOADS["W-het"]
    hands = deal(found, 2)
    work = [sum(found.work(spec) for spec in found.specs if spec.name in hand) for hand in hands]
    assert max(work) > 1.15 * sum(work) / 2


def test_jobs_are_dealt_longest_first():
    assert deal(WORKLOADS["W"], 2) == [["A", "C"], ["B", "D"]]
    assert deal(TINY, 2) == [["B"], ["A"]]
    assert deal(TINY, 1) == [["B", "A"]]


def test_an_unknown_workload_is_told():
    with pytest.raises(HydraError, match="no workload is named 'V'; there are W, W-het, W-fits, W-small, or all"):
        find_workload("V")


def test_smoke_is_small():
    found = find_workload("W-het", smoke=True)
    assert max(map(found.num_weights, found.specs)) < 1_000_000
    assert max(found.minibatches.values()) <= 3
