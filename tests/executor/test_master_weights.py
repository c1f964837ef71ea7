"""Weights in bf16 with copies in fp32: what they are for, and that they train in shards to the bit."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import MasterWeights, train
from tests.executor.worlds import DATA, VOCABULARY, differences, expected, small_job


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


def half(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        block = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Dropout(0.1), nn.LayerNorm(16))
        layers = [nn.Embedding(VOCABULARY, 16), block, Mean(), nn.Linear(16, VOCABULARY)]
        return nn.Sequential(*layers).to(torch.bfloat16)


def test_what_is_too_small_for_bf16_adds_up():
    weights = [nn.Parameter(torch.ones(4, dtype=torch.bfloat16)) for _ in range(2)]
    plain, ours = torch.optim.SGD([weights[0]], lr=1e-3), MasterWeights([weights[1]], torch.optim.SGD, lr=1e-3)
    for _ in range(10):
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        plain.step()
        ours.step()
    assert torch.equal(weights[0], torch.ones(4, dtype=torch.bfloat16))  # 1 - 0.001 rounds to 1
    assert torch.equal(weights[1], torch.full((4,), 0.99).bfloat16())


def test_it_steps_as_the_optimizer_would_in_fp32():
    torch.manual_seed(0)
    rounded = nn.Parameter(torch.randn(5).bfloat16())
    whole = nn.Parameter(rounded.detach().float())
    ours = MasterWeights([rounded], torch.optim.AdamW, lr=0.1, weight_decay=0.1)
    theirs = torch.optim.AdamW([whole], lr=0.1, weight_decay=0.1)
    for _ in range(5):
        rounded.grad = torch.randn(5).bfloat16()
        whole.grad = rounded.grad.float()
        ours.step()
        theirs.step()
    assert torch.equal(ours.state[rounded]["master"], whole)
    assert torch.equal(rounded, whole.bfloat16())
    assert set(ours.state[rounded]) == {"master", "step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("fields", [{}, {"clip_norm": 0.1}, {"update_on": "host"}], ids=str)
def test_training_in_shards_is_the_plain_loops(fields, devices, pools):
    jobs, pool = [
        small_job(
            name, model=half(seed), dataloader=DATA["shuffled"](6), seed=seed,
            cuts=(1, 2, 3), loss_fn=functional.cross_entropy, epochs=2,
            optimizer=partial(MasterWeights, kind=torch.optim.AdamW, lr=0.01), **fields,
        )
        for seed, name in enumerate("AB")
    ], pools[devices]  # fmt: skip
    answers = [expected(job) for job in jobs]
    result = train(jobs, pool.devices, pool=pool, chaos_seed=2)
    assert sum((differences(job, result, answer) for job, answer in zip(jobs, answers, strict=True)), []) == []
    assert jobs[0].module[0].weight.dtype is torch.bfloat16
    assert result.jobs["A"].optimizer_state["0.weight"]["master"].dtype is torch.float32
