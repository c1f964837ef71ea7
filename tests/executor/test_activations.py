"""Saved tensors lie in a block and are found again wherever it and the weights are by then."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from executor.activations import SavedTensors, TooLarge, forward_keeping, storages
from hydrasim.dataflow import ALIGNMENT

WEIGHT_BYTES = 4 * 4 * 4


class Halves(nn.Module):
    """Saves two views of one storage, neither of them dense."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = (x * 2).chunk(2, dim=1)
        return left * right


def through_arena(layer: nn.Module, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the input's gradient as autograd gives it, and by way of an arena that moves between the passes."""
    plain = value.clone().requires_grad_()
    layer(plain).sum().backward()
    arena = torch.full((8192,), 0xFF, dtype=torch.uint8)
    saved = SavedTensors(storages(layer.parameters()), arena).at(1024, 0, 4096)
    with torch.random.fork_rng():
        output, kept = forward_keeping([layer], value, [True], 0, saved)
    moved = arena.clone()
    arena.fill_(0xFF)
    arena[4096 : 4096 + 3072] = moved[1024:4096]
    saved.at(4096, 0)
    (gradient,) = kept.backward([torch.ones_like(output)])
    assert plain.grad is not None
    assert gradient is not None
    return plain.grad, gradient


@pytest.mark.parametrize("layer", [nn.Tanh(), Halves(), nn.Sequential(nn.Tanh(), nn.Softmax(1))])
def test_gradients_are_the_same_after_the_block_has_moved(layer):
    plain, found = through_arena(layer, torch.linspace(-1, 1, 24).reshape(4, 6))
    assert torch.equal(plain.view(torch.int32), found.view(torch.int32))


def test_a_storage_is_kept_once_whatever_views_of_it_are_saved():
    saved = SavedTensors(set())
    forward_keeping([Halves()], torch.ones(4, 8), [True], 0, saved)
    assert saved.nbytes == 4 * 8 * 4


def test_constants_take_no_room():
    layer = nn.Linear(4, 4)
    everything = SavedTensors(set())
    without_weight = SavedTensors(storages([layer.weight]))
    for saved in (everything, without_weight):
        forward_keeping([layer], torch.ones(2, 4), [True], 0, saved)
    assert everything.nbytes - without_weight.nbytes == WEIGHT_BYTES


def test_weights_are_found_where_their_block_is_by_then():
    layer = nn.Linear(4, 4, bias=False)
    weight = layer.weight.detach().clone()
    arena = torch.zeros(4096, dtype=torch.uint8)

    def attach(offset: int) -> None:
        place = arena[offset : offset + WEIGHT_BYTES].view(torch.float32).view(4, 4)
        place.copy_(weight)
        layer.weight.data = place.data

    attach(0)
    saved = SavedTensors(set(), arena, WEIGHT_BYTES).at(1024, 0, 1024)
    _, kept = forward_keeping([layer], torch.ones(2, 4), [True], 0, saved)
    attach(512)
    arena[:WEIGHT_BYTES].fill_(0xFF)
    saved.at(1024, 512)
    (gradient,) = kept.backward([torch.ones(2, 4)])
    assert torch.equal(gradient, torch.ones(2, 4) @ weight)


def test_more_than_the_block_holds_is_told():
    saved = SavedTensors(set(), torch.zeros(1024, dtype=torch.uint8)).at(0, 0, ALIGNMENT)
    with pytest.raises(TooLarge, match="more than the 64 bytes that they took in the pilot"):
        forward_keeping([nn.Tanh()], torch.ones(8, 8), [True], 0, saved)
