"""Weights that several shards share: one gradient for all copies, summed in the plain loop's order."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import CpuDevice, DevicePool, TorchJob, prepare, train
from executor.errors import JobError
from executor.ties import ties_of
from hydrasim.workload import Phase, ShardUnit
from tests.executor.worlds import DATA, differences, expected, pairs, small_job

VOCABULARY, WIDTH = 11, 16


@pytest.fixture(scope="module")
def pool():
    with DevicePool([CpuDevice(60_000)] * 2) as pool:
        yield pool


class Mixer(nn.Module):
    """Uses its matrix twice, which another layer may have too."""

    def __init__(self, matrix: nn.Parameter | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.matrix = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH) if matrix is None else matrix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.norm(x) @ self.matrix) @ self.matrix


class Last(nn.Module):
    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean(dim=1))


def language_model(seed: int) -> nn.Sequential:
    """A vector of every word that is also its logit's; a matrix used twice each by three layers of as many shards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedding, first = nn.Embedding(VOCABULARY, WIDTH), Mixer()
        layers = [first, nn.Dropout(0.1), Mixer(first.matrix), nn.Linear(WIDTH, WIDTH), Mixer(first.matrix)]
        return nn.Sequential(embedding, *layers, Last(embedding))


def language_job(name: str, seed: int, **fields: object) -> TorchJob:
    fields = {"cuts": (2, 4, 6), "optimizer": lambda p: torch.optim.AdamW(p, lr=0.01), **fields}
    return TorchJob(
        name, language_model(seed), functional.cross_entropy, DATA["shuffled"](10), epochs=2, seed=seed, **fields
    )


@pytest.mark.parametrize("fields", [{}, {"accumulate": 2}, {"clip_norm": 0.1}, {"accumulate": 3, "clip_norm": 0.1}])
@pytest.mark.parametrize("mode", ["recompute", "keep", "spill"])
def test_tied_weights_are_trained_to_the_same_bits(mode, fields, pool):
    jobs = [language_job(name, seed, activation_mode=mode, **fields) for name, seed in (("A", 1), ("B", 2))]
    answers = [expected(job) for job in jobs]
    result = train(prepare(jobs, pool.devices, fused=not fields), policy="random", seed=1, chaos_seed=3, pool=pool)
    assert [d for job, answer in zip(jobs, answers, strict=True) for d in differences(job, result, answer)] == []
    assert jobs[0].module[0].weight is jobs[0].module[-1].head.weight  # still one in the user's model


@pytest.mark.parametrize("cuts", [(1,), (3,), (6,), (1, 2, 3, 4, 5, 6)])
def test_wherever_the_cuts_are(cuts, pool):
    job = language_job("A", 3, cuts=cuts, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    answer = expected(job)
    assert differences(job, train([job], pool.devices, pool=pool), answer) == []


def test_a_whole_layer_may_be_used_twice(pool):
    layer = nn.Linear(4, 4)
    job = small_job(model=nn.Sequential(layer, nn.Tanh(), layer), dataloader=pairs(6, 4, 4), cuts=(1, 2))
    answer = expected(job)
    assert differences(job, train([job], pool.devices, pool=pool), answer) == []


def test_a_tight_budget_moves_the_sums_through_host_memory():
    jobs = [language_job(name, seed, cuts=None, clip_norm=0.1, accumulate=2) for name, seed in (("A", 1), ("B", 2))]
    answers = [expected(job) for job in jobs]
    devices = [CpuDevice(34_000)] * 2
    prepared = prepare(jobs, devices)
    assert len(prepared.workload.jobs[0].tied_shards) > 1
    result = train(prepared, policy="random", seed=5)
    blocks = {span.block.split("/")[1][0] for span in result.timeline.spans if span.kind == "load"}
    assert "t" in blocks
    assert [d for job, answer in zip(jobs, answers, strict=True) for d in differences(job, result, answer)] == []


def test_weights_shared_within_a_shard_take_no_update_units(pool):
    job = language_job("A", 1, cuts=())
    assert prepare([job], pool.devices).workload.jobs[0].tied_shards == ()
    result = train([job], pool.devices, pool=pool)
    assert not any(ShardUnit.parse(span.unit).phase is Phase.UPDATE for span in result.timeline.spans)


def test_frozen_weights_need_no_sum():
    model = language_model(1)
    shards = [list(model[:2]), list(model[2:4]), list(model[4:])]
    found = ties_of(shards, model.parameters())
    assert found is not None
    assert found.sharing_shards == (0, 1, 2)
    assert [sharing.above for sharing in found.shards] == [(True, True), (True, True), (False, False)]
    assert found.shards[1].held[0] is None
    for parameter in (model[0].weight, model[1].matrix):
        parameter.requires_grad_(False)
    assert ties_of(shards, model.parameters()) is None


def test_a_last_copy_that_is_not_used_is_refused(pool):
    class Idle(Last):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=1)

    model = copy.deepcopy(language_model(1))
    idle = nn.Sequential(*model[:-1], Idle(model[0]), nn.Linear(WIDTH, VOCABULARY))
    job = small_job(model=idle, loss_fn=functional.cross_entropy, dataloader=DATA["in order"](4), cuts=(2, 4))
    with pytest.raises(JobError, match="the last does not use it"):
        prepare([job], pool.devices)


def test_frozen_weights_that_shards_share_are_copies_too(pool):
    # The worker has one object for them; without ties to say so, a shard once computed with another's bytes.
    model = language_model(1)
    model[1].matrix.requires_grad_(False)
    model[0].weight.requires_grad_(False)
    job = small_job(model=model, loss_fn=functional.cross_entropy, dataloader=DATA["in order"](8), cuts=(2, 4, 6))
    answer = expected(job)
    assert prepare([job], pool.devices).workload.jobs[0].tied_shards == ()
    assert differences(job, train([job], [CpuDevice(12_000)]), answer) == []


def test_shards_that_share_statistics_are_refused(pool):
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 4), norm)
    job = small_job(model=model, dataloader=pairs(6, 4, 4), cuts=(2,))
    with pytest.raises(JobError, match="shards share a layer whose forward changes a buffer"):
        prepare([job], pool.devices)
    together = small_job(model=model, dataloader=pairs(6, 4, 4), cuts=())
    answer = expected(together)
    assert differences(together, train([together], pool.devices, pool=pool), answer) == []
