"""Packs trees of tensors into flat bytes and back, keeping shapes, strides and bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from executor.budget import uncounted
from hydrasim.dataflow import aligned


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one tensor lies in a flat buffer, in bytes, and how to see it there again."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    nbytes: int
    requires_grad: bool = False

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        """Return the tensor as a view of a uint8 buffer, for autograd a tensor of its own.

        Else a copy to anywhere in the buffer would count as a change of what a graph saved.
        """
        with uncounted(buffer):
            flat = buffer[self.offset : self.offset + self.nbytes].view(self.dtype)
            return flat.as_strided(self.shape, self.stride).data


@dataclass(frozen=True, slots=True)
class TreeSpec:
    """The shape of a packed tree. leaves: a Slot for each tensor, the value itself for anything else.

    skeleton: the tree with the number of each leaf in its place; unlike pytree's own spec it pickles.
    """

    leaves: tuple[Slot | Any, ...]
    skeleton: Any
    nbytes: int

    def read(self, buffer: torch.Tensor) -> Any:
        """Return the tree, its tensors as views of a uint8 buffer."""
        leaves = [leaf.view(buffer) if isinstance(leaf, Slot) else leaf for leaf in self.leaves]
        return pytree.tree_map(leaves.__getitem__, self.skeleton)


def slot_of(tensor: torch.Tensor, offset: int) -> Slot:
    """Lay a tensor out at an offset; dense tensors keep their strides, others become contiguous."""
    stride = tensor.stride() if _is_dense(tensor) else torch.empty(tensor.shape, device="meta").stride()
    nbytes = tensor.numel() * tensor.element_size()
    return Slot(tuple(tensor.shape), tuple(stride), tensor.dtype, offset, nbytes, tensor.requires_grad)


def _is_dense(tensor: torch.Tensor) -> bool:
    """Tell whether the elements fill one gapless range of memory, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return tensor.numel() > 0


def spec_of(tree: Any) -> TreeSpec:
    """Lay the tensors of a tree out one after another, each on the alignment."""
    values, structure = pytree.tree_flatten(tree)
    leaves: list[Slot | Any] = []
    offset = 0
    for value in values:
        if isinstance(value, torch.Tensor):
            leaves.append(slot_of(value, offset))
            offset += aligned(leaves[-1].nbytes)
        else:
            leaves.append(value)
    return TreeSpec(tuple(leaves), pytree.tree_unflatten(range(len(leaves)), structure), offset)


def write_tree(tree: Any, spec: TreeSpec, buffer: torch.Tensor) -> None:
    """Copy the tensors of a tree to their places in a uint8 buffer."""
    for value, slot in zip(pytree.tree_leaves(tree), spec.leaves, strict=True):
        if isinstance(slot, Slot):
            slot.view(buffer).copy_(value.detach())


def packed(tree: Any) -> Any:
    """Return a copy of a tree as it comes out of a buffer: strided as there, still wanting the gradients it did."""
    spec = spec_of(tree)
    buffer = torch.zeros(spec.nbytes, dtype=torch.uint8)
    write_tree(tree, spec, buffer)
    leaves = zip(pytree.tree_leaves(spec.read(buffer)), spec.leaves, strict=True)
    wanting = [leaf.requires_grad_(slot.requires_grad) if isinstance(slot, Slot) else leaf for leaf, slot in leaves]
    return pytree.tree_map(wanting.__getitem__, spec.skeleton)
