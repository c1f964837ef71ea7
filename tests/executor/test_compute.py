"""Units of a cut model compute what the whole model computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from executor.budget import BudgetTracker
from executor.compare_state import identical
from executor.compute import Boundary, backward, forward, loss_and_backward, needs_grad, step
from tests.executor.worlds import DATA, perceptron, transformer


def detached(tree):
    return pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad), tree)


def flags(tree):
    return [needs_grad(leaf) for leaf in pytree.tree_leaves(tree)]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_two_shards_give_the_gradients_of_one_model(cut):
    ids, target = next(iter(DATA["in order"](2)))
    whole, layers = transformer(16), list(transformer(16))
    wanted = functional.cross_entropy(whole(ids), target)
    wanted.backward()

    entry = detached(forward(layers[:cut], ids, [False]))
    loss, gradients = loss_and_backward(layers[cut:], entry, flags(entry), target, functional.cross_entropy)
    assert backward(layers[:cut], ids, [False], gradients) == []
    assert loss == wanted.item()
    a = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    b = {name: p.grad for name, p in nn.Sequential(*layers).named_parameters() if p.grad is not None}
    assert identical(a, b) == []


def test_a_layer_that_works_in_place_leaves_its_input_alone():
    entry = torch.tensor([-1.0, 2.0], requires_grad=True)
    kept = entry.detach().clone()
    layers = [nn.ReLU(inplace=True)]
    forward(layers, entry, [True])
    gradients = backward(layers, entry, [True], [torch.ones(2)])
    assert torch.equal(entry, kept)
    assert gradients[0].tolist() == [0.0, 1.0]


def test_a_forward_keeps_nothing_but_its_output():
    layers = [nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 1)]
    entry = torch.randn(50, 100)
    tracker = BudgetTracker()
    tracker.exempt([entry, *nn.Sequential(*layers).parameters()])
    with tracker:
        output = forward(layers, entry, [False])
        assert tracker.live_bytes == output.numel() * 4


def test_a_forward_says_when_someone_goes_backward_through_it():
    output = forward([nn.Linear(2, 2), nn.Tanh()], torch.ones(1, 2), [False])
    with pytest.raises(RuntimeError, match="keeps no activations"):
        output.sum().backward()


def test_only_what_wants_a_gradient_gets_one():
    tree = (torch.ones(2), torch.arange(2), None, torch.ones(2))
    entry = Boundary(tree, [True, False, False, True])
    entry.value[0].mul(3.0).sum().backward()
    first, second = entry.gradients()
    assert first.tolist() == [3.0, 3.0]
    assert second is None
    assert entry.value[2] is None


def test_a_boundary_without_gradients_needs_no_backward():
    layers = [nn.Linear(2, 2)]
    assert backward(layers, torch.ones(1, 2), [True], [None]) == [None]
    assert layers[0].weight.grad is None


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
        lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
        lambda p: torch.optim.NAdam(p, lr=0.1),
    ],
    ids=["sgd", "loop", "fused", "foreach", "nadam"],
)
def test_stepping_one_by_one_gives_the_same_bits(make):
    a = perceptron(5, 7, 3)
    b = copy.deepcopy(a)
    seen = []
    for model, one_by_one in ((a, False), (b, True)):
        optimizer = make(model.parameters())
        for round_ in range(3):
            for index, parameter in enumerate(model.parameters()):
                parameter.grad = torch.full_like(parameter, 0.3 * (index + 1) - round_)
            step(optimizer, one_by_one, on_parameter=lambda p: seen.append(p.shape))
        assert optimizer.param_groups[0]["params"] == list(model.parameters())
    assert identical(dict(a.named_parameters()), dict(b.named_parameters())) == []
    assert seen == [p.shape for p in b.parameters()] * 3
