"""What counts as a piece."""

from __future__ import annotations

from torch import nn

from executor.extract.pieces import find_pieces, num_weights
from experiments.extraction_cnns import VGG, ResNet18
from tests.executor.extract.models import Block, Stack


def names(model: nn.Module, nested: bool = True) -> list[str]:
    return [piece.name for piece in find_pieces(model, nested)]


def stage(num_blocks: int) -> nn.Module:
    made = nn.Module()
    made.blocks = nn.ModuleList(Block() for _ in range(num_blocks))
    return made


def test_the_elements_of_a_stack_and_what_is_beside_it():
    assert names(Stack()) == ["entry", "head", "blocks.0", "blocks.1", "blocks.2"]
    assert [piece.in_stack for piece in find_pieces(Stack())] == [False, False, True, True, True]


def test_a_module_in_a_wrapper_is_opened():
    wrapper = nn.Module()
    wrapper.inner = nn.Module()
    wrapper.inner.model = Stack()
    assert names(wrapper) == [f"inner.model.{name}" for name in names(Stack())]


def test_large_stages_of_blocks_are_opened_small_ones_not():
    model = nn.Module()
    model.stages = nn.ModuleList([stage(2), stage(9)])
    assert names(model) == ["stages.0", *(f"stages.1.blocks.{index}" for index in range(9))]
    assert names(model, nested=False) == ["stages.0", "stages.1"]


def test_residual_blocks_stay_whole():
    found = names(ResNet18(width=2, num_classes=2))
    assert found[:4] == ["conv1", "bn1", "relu", "maxpool"]
    assert found[4:12] == [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]


def test_plain_stacks_come_layer_by_layer():
    assert names(VGG(width=1, num_classes=2))[:3] == ["features.0", "features.1", "features.2"]


def test_a_module_in_two_places_is_one_piece_and_a_parameter_counts_once():
    block = Block()
    model = nn.Module()
    model.blocks = nn.ModuleList([block, block])
    assert names(model) == ["blocks.0"]
    assert num_weights(model) == num_weights(block)
