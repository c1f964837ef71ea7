"""Counting on tensors without data finds what a pilot on real ones finds, and FLOPs and bytes by hand."""

from __future__ import annotations

import copy
import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from executor import randomness
from executor.analytic import AnalyticPilot, counted, even_cuts
from executor.compare_state import identical
from executor.errors import JobError
from executor.job import TorchJob
from executor.pilot import JobPilot
from hydrasim.roofline import Kernel
from tests.executor.worlds import DATA, Tokens, pairs, perceptron, small_job, transformer

SAME = ("layout", "output_bytes", "working_bytes", "has_gradient", "retained_bytes")


class Masked(nn.Linear):
    """Has a buffer, a plain tensor, and makes a table once."""

    table = None

    def __init__(self, *size: int) -> None:
        super().__init__(*size)
        self.register_buffer("mask", torch.ones(2, 4))
        self.scale = torch.ones(10)[:2]

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(16.0)
        return functional.linear(x, self.weight * self.mask, self.bias) * self.table[:2] * self.scale


def transformer_job(optimizer, dropout=0.1) -> TorchJob:
    return small_job(
        model=transformer(16, dropout), loss_fn=functional.cross_entropy, dataloader=DATA["in order"](4),
        optimizer=optimizer, cuts=(2,),
    )  # fmt: skip


JOBS = {
    "adamw": lambda: transformer_job(partial(torch.optim.AdamW, lr=1e-3)),
    "momentum": lambda: transformer_job(partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
    "radam": lambda: transformer_job(partial(torch.optim.RAdam, lr=1e-3)),
    "adafactor": lambda: transformer_job(partial(torch.optim.Adafactor, lr=1e-3)),
    "amsgrad, foreach": lambda: transformer_job(partial(torch.optim.Adam, amsgrad=True, foreach=True)),
    "fused": lambda: transformer_job(partial(torch.optim.AdamW, fused=True)),
    "buffers and a cache": lambda: small_job(
        model=nn.Sequential(Masked(4, 2)), cuts=(), loss_fn=lambda a, b: (a - b).square().mean()
    ),
}


def chains(job: TorchJob, pilot: AnalyticPilot):
    bounds = list(itertools.pairwise([0, *job.cuts, len(job.layers)]))
    return JobPilot(job).chain(bounds), pilot.chain(bounds)


@pytest.mark.parametrize("name", JOBS)
def test_it_finds_what_the_pilot_finds(name):
    job = JOBS[name]()
    pilot = AnalyticPilot(job, as_on_gpu=False)
    real = JobPilot(job)
    for measured, found in zip(*chains(job, pilot), strict=True):
        assert {key: getattr(found, key) for key in SAME} == {key: getattr(measured, key) for key in SAME}
        assert found.entry.leaves == measured.entry.leaves
        assert 0 < found.activation_bytes < measured.working_bytes
        assert (found.forward_s, found.backward_s) == (0.0, 0.0)
    assert (pilot.input_bytes, pilot.target_bytes) == (real.input_bytes, real.target_bytes)
    assert pilot.constant_bytes == real.constant_bytes


def test_in_bf16_it_finds_what_the_pilot_of_a_cast_model_finds():
    job = small_job(optimizer=partial(torch.optim.AdamW, lr=1e-3))
    cast = small_job(
        model=perceptron(4, 8, 2).to(torch.bfloat16), optimizer=partial(torch.optim.AdamW, lr=1e-3),
        dataloader=[(x.bfloat16(), y.bfloat16()) for x, y in job.dataloader],
    )  # fmt: skip
    measured, _ = chains(cast, AnalyticPilot(job))
    _, found = chains(job, AnalyticPilot(job, "bf16"))
    assert [shard.layout for shard in found] == [shard.layout for shard in measured]
    assert [shard.working_bytes for shard in found] == [shard.working_bytes for shard in measured]


def test_flops_and_bytes_of_a_linear_layer_by_hand():
    # 64 samples, 8 -> 4: X 2048 B, W 128 B, b 16 B, Y 1024 B; a backward needs no gradient of the first input.
    job = small_job(model=nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), dataloader=pairs(1, 8, 2, batch=64))
    first, second = chains(job, AnalyticPilot(job))[1]
    product = 2 * 64 * 8 * 4
    assert first.forward_kernels == (Kernel(product, 16 + 2048 + 128 + 1024),)
    assert sum(kernel.flops for kernel in first.backward_kernels) == product
    assert Kernel(product, 1024 + 2048 + 128) in first.backward_kernels
    assert sum(kernel.flops for kernel in second.backward_kernels) == 2 * (2 * 64 * 4 * 2)
    assert first.activation_bytes == 2048


def test_activations_count_once_and_without_parameters():
    # Tanh saves its output, which the next linear layer saves too: entry 64 x 8, two outputs 64 x 4, the loss's target.
    model = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
    job = small_job(model=model, dataloader=pairs(1, 8, 4, batch=64), cuts=())
    assert chains(job, AnalyticPilot(job))[1][0].activation_bytes == 2048 + 3 * 1024


def test_an_update_moves_state_and_on_a_gpu_takes_all_parameters_at_once():
    job = small_job(cuts=())
    (found,), (apart,) = (chains(job, AnalyticPilot(job, as_on_gpu=on_gpu))[1] for on_gpu in (True, False))
    num_bytes = 4 * (4 * 8 + 8 + 8 * 2 + 2)
    assert found.update_kernels == (Kernel(0, 3 * num_bytes),)  # read weight and gradient, write weight
    assert len(apart.update_kernels) == 4


def test_rows_that_an_embedding_leaves_alone_are_not_read():
    model = nn.Sequential(nn.Embedding(1 << 20, 4), nn.Flatten(), nn.Linear(24, 11))
    job = small_job(model=model, loss_fn=functional.cross_entropy, dataloader=DATA["in order"](2), cuts=())
    assert max(kernel.nbytes for kernel in chains(job, AnalyticPilot(job))[1][0].forward_kernels) < 4096


class Attention(nn.Linear):
    def forward(self, x):
        y = super().forward(x).view(2, 2, 64, 8)
        return functional.scaled_dot_product_attention(y, y, y, None, 0.5, is_causal=True)


def test_attention_with_dropout_is_one_kernel_on_a_gpu():
    job = small_job(
        model=nn.Sequential(Attention(8, 8)), loss_fn=lambda y, _: y.sum(),
        dataloader=[(torch.ones(4, 64, 8), torch.ones(1))], cuts=(),
    )  # fmt: skip
    found, written = (AnalyticPilot(job, as_on_gpu=on_gpu).run(0, 1, torch.ones(4, 64, 8)) for on_gpu in (True, False))
    scores = 2 * 2 * 64 * 64
    assert [k.flops for k in found.forward_kernels if k.flops] == [2 * 4 * 64 * 8 * 8, 2 * 2 * 8 * scores]
    assert sum(k.flops for k in written.forward_kernels) == sum(k.flops for k in found.forward_kernels)
    assert sum(k.nbytes for k in written.forward_kernels) > 4 * 4 * scores + sum(
        k.nbytes for k in found.forward_kernels
    )


def test_a_model_of_four_terabytes_needs_no_memory():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(1 << 20, 1 << 20, bias=False), nn.Linear(1 << 20, 2))
    data = [(torch.ones(1, 1 << 20), torch.ones(1, 2))]
    workload, counts = counted([AnalyticPilot(small_job(model=model, dataloader=data), "bf16")], [(1,)])
    assert workload.jobs[0].shards[0].parameter_bytes == 2 << 40
    assert sum(kernel.flops for kernel in counts["A", 0].forward) == 2 << 40
    assert (workload.jobs[0].shards[0].forward_s, workload.jobs[0].input_bytes) == (0.0, 2 << 20)


def test_shards_that_are_alike_are_counted_once():
    def num_counts(depth):
        cuts = tuple(range(1, depth))
        pilot = AnalyticPilot(small_job(model=perceptron(*[4] * (depth + 1)), dataloader=pairs(1, 4, 4), cuts=cuts))
        assert len({id(found) for found in chains(pilot.job, pilot)[1]}) < 5
        return len(pilot._done)

    assert num_counts(8) == num_counts(5)


def test_the_batch_size_can_be_another():
    job = small_job(cuts=())
    small, large = (AnalyticPilot(job, batch_size=size) for size in (3, 300))
    assert large.input.shape == (300, 4)
    assert chains(job, large)[1][0].forward_kernels[0].flops == 100 * chains(job, small)[1][0].forward_kernels[0].flops


def test_the_users_objects_and_random_state_stay_untouched():
    model, generator = transformer(16, 0.5), torch.Generator().manual_seed(4)
    optimizer = torch.optim.AdamW(model.parameters())
    functional.cross_entropy(model(next(iter(DATA["in order"](2)))[0]), torch.tensor([1, 2])).backward()
    optimizer.step()
    optimizer.zero_grad()
    loader = DataLoader(Tokens(6), batch_size=2, shuffle=True, generator=generator)
    job = small_job(model=model, loss_fn=functional.cross_entropy, dataloader=loader, optimizer=optimizer, cuts=(2,))
    before, streams = copy.deepcopy((model.state_dict(), generator.get_state())), randomness.save()
    AnalyticPilot(job).chain([(0, 2), (2, 5)])
    assert identical(model.state_dict(), before[0]) == []
    assert torch.equal(generator.get_state(), before[1])
    assert randomness.save() == streams
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert all(type(value) is torch.Tensor for state in optimizer.state.values() for value in state.values())


class Deciding(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x[:, :2]


class Filtering(nn.Linear):
    def forward(self, x):
        return super().forward(x[x[:, 0] > 0])


@pytest.mark.parametrize("layer", [Deciding, Filtering])
def test_layers_that_go_by_values_are_refused(layer):
    job = small_job(model=nn.Sequential(layer(4, 2)), cuts=())
    with pytest.raises(JobError, match=r"job 'A': layers 0..0 or the loss go by the values of tensors \(aten"):
        AnalyticPilot(job).run(0, 1, job.dataloader[0][0])


class Recurrent(nn.LSTM):
    def forward(self, x):
        return super().forward(x[None])[0][0]


def test_what_cannot_be_counted_is_refused():
    job = small_job(model=nn.Sequential(Recurrent(4, 2)), cuts=())
    with pytest.raises(JobError, match="cannot be counted: its FLOPs are not known"):
        AnalyticPilot(job).run(0, 1, job.dataloader[0][0])


def test_an_unknown_precision_is_named():
    with pytest.raises(JobError, match="precision is 'fp8'; it is one of fp32, tf32, fp16, bf16"):
        AnalyticPilot(small_job(), "fp8")


def test_even_cuts():
    job = small_job(model=perceptron(4, 4, 4, 4, 4, 2), cuts=None)
    assert even_cuts(job, 2) == (2, 4)
    assert even_cuts(job, num_shards=2) == (2,)
    assert even_cuts(job, num_shards=9) == even_cuts(job, 1) == (1, 2, 3, 4)
