"""A pilot run finds out what a shard takes, and leaves everything of the user's as it was."""

from __future__ import annotations

import copy
import random
import threading

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from executor.compare_state import identical
from executor.errors import JobError
from executor.pilot import JobPilot
from tests.executor.worlds import DATA, Tokens, pairs, perceptron, small_job, transformer


def pilot_of(**fields):
    return JobPilot(small_job(**fields))


def test_a_pilot_reports_state_boundary_and_gradients():
    job = small_job(model=transformer(16, 0.1), loss_fn=functional.cross_entropy, dataloader=DATA["in order"](4),
                    optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))  # fmt: skip
    first, second = JobPilot(job).chain([(0, 2), (2, 5)])
    assert first.has_gradient == (False, *[True] * 14)  # `unused` comes first
    assert second.has_gradient[-5:] == (False, *[True] * 4)  # `scale` is frozen
    assert first.output[0].shape == (2, 6, 16)
    assert first.output_bytes == 2 * 6 * 16 * 4 + 2 * 6 * 8 + 32  # the None weighs nothing, 96 bytes take 128
    assert {entry.key for entry in first.layout.state} == {"momentum_buffer"}
    assert len(first.layout.state) == 14
    assert second.output_bytes == 0


def test_working_bytes_hold_the_activations_of_a_backward():
    # A (64, 1000) activation lives twice at least: saved by tanh, and as a gradient.
    job = small_job(model=perceptron(10, 1000, 2), dataloader=pairs(1, 10, 2, batch=64), cuts=())
    working = JobPilot(job).run(0, 2, job.dataloader[0][0]).working_bytes
    assert 2 * 64 * 1000 * 4 < working < 5 * 64 * 1000 * 4


def test_buffers_are_counted_as_constant():
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(4, 2)
            self.register_buffer("mask", torch.ones(2, 4))

    assert pilot_of(model=nn.Sequential(Masked()), cuts=()).constant_bytes == 32


def test_tensors_as_plain_attributes_and_in_the_loss_are_constant_too():
    layer = nn.Linear(4, 2)
    layer.table = torch.ones(10)[:4]  # all ten lie there
    weights = torch.ones(2)
    job = small_job(model=nn.Sequential(layer), loss_fn=lambda a, b: ((a - b).square() * weights).mean(), cuts=())
    assert JobPilot(job).constant_bytes == 40 + 8


class Caching(nn.Linear):
    table = None

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(16.0)
        return super().forward(x) * self.table[:2]


def test_what_a_layer_makes_once_and_keeps_is_found():
    pilot = pilot_of(model=nn.Sequential(Caching(4, 2)), cuts=())
    assert pilot.run(0, 1, pilot.input).retained_bytes == 64


class Fork(nn.Linear):
    def forward(self, x):
        return super().forward(x).t(), x * self.weight.sum()


class Take(nn.Linear):
    def forward(self, both):
        return super().forward(both[0].t().contiguous())


def test_a_shard_is_piloted_on_the_gradients_that_the_next_one_hands_back():
    pilot = pilot_of(model=nn.Sequential(Fork(4, 8), Take(8, 2)))
    first, second = pilot.chain([(0, 1), (1, 2)])
    gradient, none = second.entry.leaves
    assert (gradient.shape, gradient.stride) == ((8, 3), (1, 8))
    assert none is None  # nobody used the second output
    assert first.has_gradient == (True, True)


def test_the_users_objects_and_random_state_stay_untouched():
    generator = torch.Generator().manual_seed(4)
    loader = DataLoader(Tokens(6, noisy=True), batch_size=2, shuffle=True, generator=generator)
    job = small_job(model=transformer(16, 0.5), loss_fn=functional.cross_entropy, dataloader=loader)
    before = copy.deepcopy((job.module.state_dict(), generator.get_state()))
    streams = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    JobPilot(job).chain([(0, 5)])
    assert identical(job.module.state_dict(), before[0]) == []
    assert all(parameter.grad is None for parameter in job.module.parameters())
    assert torch.equal(generator.get_state(), before[1])
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == streams[1:]


class CountingLoss(nn.MSELoss):
    calls = 0

    def forward(self, output, target):
        self.calls += 1
        return super().forward(output, target)


def test_the_users_loss_stays_untouched_too():
    job = small_job(loss_fn=CountingLoss(), cuts=())
    JobPilot(job).chain([(0, 2)])
    assert job.loss_fn.calls == 0


class Broken:
    def __init__(self, count=1):
        self.count = count

    def __len__(self):
        return 1

    def __iter__(self):
        yield from pairs(self.count)
        raise OSError("disk on fire")


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (Broken(0), "job 'A': the dataloader failed on its first mini-batch: OSError: disk on fire"),
        ([torch.ones(3, 4)], r"job 'A': the dataloader must yield \(input, target\) pairs"),
        ([(pairs(1)[0][0], None, None)], r"\(input, target\) pairs"),
    ],
)
def test_a_broken_loader_is_told_with_its_job(loader, message):
    with pytest.raises(JobError, match=message):
        pilot_of(dataloader=loader)


class Locked(nn.Linear):
    def __init__(self):
        super().__init__(8, 2)
        self.lock = threading.Lock()


class Raising(nn.Module):
    def forward(self, x):
        raise ZeroDivisionError("no way")


def test_a_layer_that_cannot_be_piloted_is_told_with_its_job():
    pilot = pilot_of(model=nn.Sequential(nn.Linear(4, 8), Raising()), dataloader=pairs(1, 4, 8))
    message = "job 'A': layers 1..1 failed in their pilot run: ZeroDivisionError: no way"
    with pytest.raises(JobError, match=message):
        pilot.chain([(0, 1), (1, 2)])


def test_buffers_that_a_forward_changes_are_laid_out_as_state_and_stay_as_they_are():
    norm = nn.BatchNorm1d(8)
    pilot = pilot_of(model=nn.Sequential(nn.Linear(4, 8), norm), dataloader=pairs(1, 4, 8))
    fixed, moving = pilot.chain([(0, 1), (1, 2)])
    assert fixed.layout.buffers == ()
    assert [slot.shape for slot in moving.layout.buffers] == [(8,), (8,), ()]
    assert moving.layout.parameter_bytes == 5 * 64
    assert norm.num_batches_tracked == 0


def test_kept_activations_are_the_saved_tensors_without_the_weights():
    # a copy of the input of 48 bytes, and tanh's output of 96, each on the alignment
    assert pilot_of().chain([(0, 1), (1, 2)])[0].activation_bytes == 64 + 128


def test_a_layer_that_cannot_travel_is_told_with_its_job():
    with pytest.raises(JobError, match="job 'A': layer 1 cannot be sent to a worker process: TypeError: cannot pickle"):
        pilot_of(model=nn.Sequential(nn.Linear(4, 8), Locked()))


class Peeping(nn.Linear):
    """Uses another layer's weights without owning them."""

    def __init__(self, other):
        super().__init__(8, 2)
        self.others = [other]

    def forward(self, x):
        return super().forward(x) + self.others[0].weight.sum()


def test_weights_used_outside_their_layer_are_refused():
    # On a device the other shard's bytes are stale or gone; the run gave wrong weights without a word.
    first = nn.Linear(4, 8)
    with pytest.raises(JobError, match="layer 1 refers to parameters of the model that are not its own"):
        pilot_of(model=nn.Sequential(first, Peeping(first)))
    model = perceptron(4, 8, 2)

    def penalised(output, target):
        return functional.mse_loss(output, target) + sum(p.square().sum() for p in model.parameters())

    with pytest.raises(JobError, match="loss_fn refers to parameters of the model"):
        pilot_of(model=model, loss_fn=penalised)
    assert model[0][0].weight.grad is None


def test_shards_that_are_alike_run_once(monkeypatch):
    """Models with billions of weights in equal blocks take no longer to pilot than small ones."""
    runs = []
    real = JobPilot._run
    monkeypatch.setattr(JobPilot, "_run", lambda self, *given: runs.append(given[:2]) or real(self, *given))
    model = perceptron(*[4] * 9)
    bounds = [(layer, layer + 1) for layer in range(len(model))]
    alike = pilot_of(model=model, dataloader=pairs(1, 4, 4)).chain(bounds)
    assert len(runs) < len(model)
    num_alike, runs[:] = len(runs), []
    torch.nn.init.zeros_(model[2][0].weight)  # weights' values are no difference, a frozen one is
    model[4][0].bias.requires_grad_(False)
    other = pilot_of(model=model, dataloader=pairs(1, 4, 4)).chain(bounds)
    assert len(runs) > num_alike
    assert [shard.layout.parameter_bytes for shard in other] == [shard.layout.parameter_bytes for shard in alike]
    assert (other[4].has_gradient, alike[4].has_gradient) == ((True, False), (True, True))
