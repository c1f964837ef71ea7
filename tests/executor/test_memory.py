"""A budget that `prepare` accepts is enough; each of these models once burst it, or got what it need not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import CpuDevice, DevicePool, TorchJob, prepare, train
from executor.pilot import JobPilot
from experiments.bisection import smallest_memory
from hydrasim.planning import make_plan
from tests.executor.worlds import differences, expected, pairs

WIDTH, BATCH = 24, 50


class Placed(nn.Module):
    """Adds a slice of a plain tensor attribute, as many position encodings do."""

    def __init__(self):
        super().__init__()
        self.table = torch.linspace(0, 1, 3000)

    def forward(self, x):
        return x + self.table[: x.shape[-1]]


class Cached(nn.Module):
    """Makes its table in the first forward pass and keeps it, as many rotary embeddings do."""

    table = None

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(1000.0).sin()
        return x + self.table[: x.shape[-1]]


class Recurrent(nn.Module):
    """Works on its input transposed, and hands its gradient back so."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]


class Summed(nn.Module):
    def forward(self, x):
        return functional.layer_norm(x, x.shape[-1:]).mean(1)


class Forked(nn.Module):
    """Hands on two tensors that want a gradient; nobody uses the second."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.used(x), self.unused(x)


class First(nn.Module):
    def forward(self, both):
        return both[0]


def linear(out=WIDTH):
    return nn.Linear(WIDTH, out)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.01)


def radam(parameters):
    return torch.optim.RAdam(parameters, lr=0.01)


CHAINS = {
    "tensors as plain attributes": ([linear(), Placed(), linear(), Placed(), Placed(), linear(2)], sgd, 2, None),
    "tensors made once and kept": ([linear(), Cached(), linear(), Cached(), Cached(), linear(2)], sgd, 2, None),
    "an optimizer that needs more from its sixth step on": ([linear(3000), nn.Linear(3000, 2)], radam, 7, None),
    "gradients with other strides than the output": (
        [linear(4 * WIDTH), nn.Unflatten(1, (4, WIDTH)), linear(100), nn.GELU(), nn.Linear(100, WIDTH), Recurrent(),
         Summed(), linear(2)], sgd, 2, (5,),
    ),
    "an output without gradient": ([Forked(), First(), linear(2)], sgd, 2, (1,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_the_least_memory_that_is_accepted_is_enough(name):
    layers, optimizer, steps, cuts = CHAINS[name]
    torch.manual_seed(0)
    job = TorchJob(
        "A", nn.Sequential(*layers), functional.mse_loss, pairs(steps, WIDTH, batch=BATCH), optimizer, cuts=cuts
    )
    answer, pilot = expected(job), JobPilot(job)
    if cuts is None:
        devices = [CpuDevice(smallest_memory(lambda nbytes: prepare([job], [CpuDevice(nbytes)], pilots=[pilot])))]
    else:  # to the byte: what state and boundaries need, and the peak
        devices = [CpuDevice(least_for_given_cuts(job, pilot))]
    with DevicePool(devices) as pool:
        result = train(prepare([job], devices, pilots=[pilot]), pool=pool)
    assert not differences(job, result, answer)
    assert max(result.peak_bytes) <= devices[0].memory_bytes


def least_for_given_cuts(job, pilot):
    def accepts(nbytes):
        prepared = prepare([job], [CpuDevice(nbytes)], pilots=[pilot])
        make_plan(prepared.workload, prepared.cluster, "fifo")

    return smallest_memory(accepts)
