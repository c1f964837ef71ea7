"""Trees of tensors keep shapes, strides and bits through flat bytes."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.nn import functional

from executor.compare_state import identical
from executor.tensors import Slot, packed, spec_of, write_tree


def through(tree):
    spec = pickle.loads(pickle.dumps(spec_of(tree)))
    buffer = torch.full((spec.nbytes,), 0xFF, dtype=torch.uint8)
    write_tree(tree, spec, buffer)
    return spec.read(buffer)


def test_a_tree_comes_back_with_its_structure_and_bits():
    tree = {"a": (torch.tensor([1.0, -0.0]), None, 7), "b": [torch.arange(3), torch.ones(2, dtype=torch.bfloat16)]}
    back = through(tree)
    assert back["a"][1:] == (None, 7)
    assert identical({"x": back["a"][0], "y": back["b"][0], "z": back["b"][1]},
                     {"x": tree["a"][0], "y": tree["b"][0], "z": tree["b"][1]}) == []  # fmt: skip


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3).t(),
        torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(4, 1, 3).transpose(0, 1),
    ],
    ids=["transposed", "permuted", "channels last", "with a dimension of one"],
)
def test_dense_tensors_keep_their_strides(tensor):
    back = through([tensor])[0]
    assert back.stride() == tensor.stride()
    assert identical({"t": back}, {"t": tensor}) == []


def test_tensors_lie_on_the_alignment():
    spec = spec_of([torch.ones(1), torch.ones(17), torch.empty(0)])
    assert [slot.offset for slot in spec.leaves if isinstance(slot, Slot)] == [0, 64, 192]
    assert spec.nbytes == 192


def test_a_slot_remembers_who_wants_a_gradient():
    spec = spec_of([torch.ones(2, requires_grad=True), torch.ones(2), 3])
    assert [isinstance(leaf, Slot) and leaf.requires_grad for leaf in spec.leaves] == [True, False, False]


def test_a_graph_that_saved_a_view_does_not_mind_writes_elsewhere_in_the_buffer():
    # A lane loads another block while the loss still holds its target; it once failed at random with
    # "modified by an inplace operation", since all views of the arena counted changes together.
    target = torch.tensor([1, 0])
    buffer = torch.zeros(1024, dtype=torch.uint8)
    write_tree([target], spec_of([target]), buffer)
    scores = torch.zeros(2, 2, requires_grad=True)
    loss = functional.cross_entropy(scores, spec_of([target]).read(buffer)[0])
    buffer[512:].fill_(1)
    loss.backward()
    assert scores.grad is not None


def test_a_packed_tree_is_strided_as_in_a_buffer_and_wants_the_same_gradients():
    wide = torch.arange(12.0).view(3, 4).requires_grad_()
    tree = packed({"sliced": wide[:, :2], "turned": wide.t().detach(), "rest": (None, 3)})
    assert (tree["sliced"].stride(), tree["sliced"].requires_grad) == ((2, 1), True)
    assert (tree["turned"].stride(), tree["turned"].requires_grad) == ((1, 4), False)
    assert tree["sliced"].tolist() == wide[:, :2].tolist()
    assert tree["sliced"].grad_fn is None
    assert tree["rest"] == (None, 3)
