"""The proof sees every kind of difference."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import randomness
from executor.errors import ExtractionError
from executor.extract.proof import Proof, digest


class Scaled(nn.Module):
    """The same values with another gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach() + (x - x.detach()) * 2


class Draws(nn.Module):
    """Draws and does nothing with it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.rand(())
        return x


class Backwards(nn.BatchNorm1d):
    """Learns other statistics."""

    momentum = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, 0.5)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))


def failing(layers: list[nn.Module], of: nn.Module) -> str:
    with pytest.raises(ExtractionError) as caught:
        Proof(of, torch.randn(4, 3), torch.randn(4, 2), functional.mse_loss).check(layers)
    return str(caught.value)


def test_a_chain_proves_itself():
    chain = model()
    Proof(chain, torch.randn(4, 3), torch.randn(4, 2), functional.mse_loss).check(list(chain))


def test_gradients_random_state_and_statistics_count():
    chain = model()
    assert "differs from the model in gradients 1.weight, gradients 1.bias" in failing(
        [*chain[:2], Scaled(), *chain[2:]], chain
    )
    assert "differs from the model in the random state afterwards" in failing([*chain, Draws()], chain)
    other = copy.copy(chain[1])
    other.__class__ = Backwards
    assert "differs from the model in buffers ['1.running_mean'], buffers ['1.running_var']" in failing(
        [chain[0], other, *chain[2:]], chain
    )


def test_nothing_is_left_behind_after_a_refusal():
    chain = model()
    chain[0].weight.grad = torch.ones(3, 3)
    buffers, before = copy.deepcopy(dict(chain.named_buffers())), randomness.save()
    failing([*chain, Draws()], chain)
    torch.set_rng_state(torch.get_rng_state())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in chain.named_buffers())
    assert torch.equal(chain[0].weight.grad, torch.ones(3, 3))
    assert chain[3].weight.grad is None
    assert randomness.save() != before  # the batch was drawn, nothing else


def test_digests_see_signs_shapes_and_types():
    zero = torch.zeros(2)
    assert digest(zero) == digest(zero.clone())
    assert len({digest(value) for value in (zero, -zero, zero.reshape(1, 2), zero.double()[:1], zero.int())}) == 5
