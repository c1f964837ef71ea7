"""What a layer answers, runs and hands on."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from executor.compute import run_layers
from executor.extract import layers_of
from executor.extract.skeleton import Elsewhere
from tests.executor.extract import models


def batch() -> torch.Tensor:
    return torch.randn(5, models.WIDTH, generator=torch.Generator().manual_seed(0))


def test_a_boundary_holds_what_later_layers_need_and_shapes_of_the_rest():
    layers = layers_of(models.Stack(), batch())
    inputs, made = layers[1](layers[0](batch()))
    gone = Elsewhere((5, models.WIDTH), torch.float32)
    assert inputs == gone
    assert made[0] == gone
    assert made[1].requires_grad


def test_what_the_end_needs_is_carried_to_it():
    layers = layers_of(models.Glue(), batch())
    inputs, made = run_layers(layers[:-1], batch())
    assert torch.equal(inputs, batch())  # whose mean is added at the end
    assert [isinstance(tree, torch.Tensor) for tree in made] == [True, False, False, True]


def test_a_stand_in_spoils_what_is_computed_with_it_and_has_no_memory():
    made = Elsewhere((3, 2), torch.float32).stand_in(torch.device("cpu"))
    assert made.shape == (3, 2)
    assert made.isnan().all()
    assert made.untyped_storage().nbytes() == 4


@pytest.mark.parametrize("kind", [models.Stack, models.Glue, models.InPlace])
def test_several_layers_in_one_pass_give_what_they_give_apart(kind):
    layers = layers_of(kind(), batch())
    torch.manual_seed(1)
    apart = batch()
    for layer in layers:
        apart = layer(apart)
    torch.manual_seed(1)
    assert torch.equal(run_layers(layers, batch()), apart)
    torch.manual_seed(1)
    assert torch.equal(run_layers(layers[2:], run_layers(layers[:2], batch())), apart)


def test_one_pass_runs_the_code_of_the_model_once():
    layers = layers_of(models.Stack(), batch())
    value, num_more = layers[0].run_with(layers[1:3], batch())
    assert num_more == 2
    assert [isinstance(leaf, Elsewhere) for leaf in pytree.tree_leaves(value)] == [True, True, True, False]
    assert layers[0].run_with(layers[2:], batch())[1] == 0  # not its neighbour


def test_layers_whose_code_needs_parameters_of_their_own_do_not_follow():
    assert [layer.can_follow for layer in layers_of(models.Glue(), batch())] == [True, False, True, True, False]
