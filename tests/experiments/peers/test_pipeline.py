"""A stage that recomputes: the same bits, and less kept."""

from __future__ import annotations

import torch

from executor.budget import BudgetTracker
from experiments.peers.pipeline import Recomputed
from tests.experiments.peers.worlds import TINY


def trained(wrap):
    stage = TINY.model(TINY.specs[1])[1:4]
    stage_input = torch.ones(8, 16, 48, requires_grad=True)
    tracker = BudgetTracker()
    with tracker:
        output = wrap(stage)(stage_input)
        kept_bytes = tracker.live_bytes
        output.sum().backward()
    return [stage_input.grad, *(parameter.grad for parameter in stage.parameters())], kept_bytes


def test_a_recomputing_stage_keeps_its_input_and_gives_the_same_gradients():
    plain, plain_bytes = trained(lambda stage: stage)
    again, again_bytes = trained(Recomputed)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert again_bytes < plain_bytes / 3
