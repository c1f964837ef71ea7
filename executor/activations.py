"""Activations kept for the backward: what autograd saves lies in the device's arena, its graph in the worker.

    forward   saved tensor --pack--> bytes in block a of the arena (or, spilled, from there to host memory)
    backward  node --unpack--> view of block a, wherever it lies by then

Weights are kept by their place in block w, never by copy, and constants of the model as they are. A graph cannot
travel between processes, and a block may have been evicted; whoever does not find both recomputes, with the same bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks
from torch.utils import _pytree as pytree

from executor.budget import storages_of, uncounted
from executor.compute import PLAIN, Boundary, Loss, Seeds, device_type, go_backward, needs_grad, run_layers
from executor.copying import copy_bytes
from executor.step import StepOptions
from hydrasim.dataflow import ALIGNMENT, aligned


class TooLarge(Exception):
    """The activations take more room than their block has."""


@dataclass(frozen=True, slots=True)
class _Saved:
    """A saved tensor: a view of bytes that begin so far into block a, or, if in_weights, into block w."""

    start: int
    in_weights: bool
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    storage_offset: int

    def view(self, arena: torch.Tensor, block_offset: int) -> torch.Tensor:
        """Return the tensor where it lies now, for autograd a tensor of its own."""
        offset = (block_offset + self.start) // self.dtype.itemsize + self.storage_offset
        whole = arena[: len(arena) // ALIGNMENT * ALIGNMENT].view(self.dtype)
        return whole.as_strided(self.shape, self.stride, offset).data


class SavedTensors:
    """Takes what one forward saves into block a, each storage once; gives it back in the backward.

    constants: storages of the model's own tensors, by identity, which stay where they are. nbytes: what has been
    taken. Without an arena nothing is copied, only counted.
    """

    def __init__(self, constants: set[int], arena: torch.Tensor | None = None, weights_bytes: int = 0) -> None:
        self.nbytes = 0
        self._constants, self._arena, self._weights_bytes = constants, arena, weights_bytes
        self._room = self._block = self._weights = 0
        # By identity of the storage, with its version: a freed one's place may be taken by the next within a forward.
        self._taken: dict[int, tuple[weakref.ref[torch.UntypedStorage], int, int]] = {}

    def at(self, block: int, weights: int, room: int = 0) -> SavedTensors:
        """Say where blocks a and w lie in the arena now, and how much room block a has."""
        self._block, self._weights, self._room = block, weights, room
        return self

    def hooks(self) -> saved_tensors_hooks:
        """Return the context in which a forward runs."""
        return saved_tensors_hooks(self._pack, self._unpack)

    def forget_storages(self) -> None:
        """The forward is over; nothing more will be taken."""
        self._taken.clear()

    def _pack(self, tensor: torch.Tensor) -> _Saved | torch.Tensor:
        storages = storages_of(tensor)
        if len(storages) != 1 or type(tensor) not in (torch.Tensor, nn.Parameter):
            return tensor
        storage = storages[0]
        if storage._cdata in self._constants:
            return tensor
        if self._arena is not None and storage.data_ptr() == self._arena.untyped_storage().data_ptr():
            start = tensor.storage_offset() * tensor.element_size() - self._weights
            if 0 <= start < self._weights_bytes:
                return _Saved(start, True, tensor.dtype, tensor.shape, tensor.stride(), 0)
            return _Saved(self._take(_span(tensor)), False, tensor.dtype, tensor.shape, tensor.stride(), 0)
        known = self._taken.get(storage._cdata)
        if known is None or known[0]() is None or known[1] != tensor._version:
            start = self._take(_bytes(tensor, 0, storage.nbytes() // tensor.element_size()))
            self._taken[storage._cdata] = known = (weakref.ref(storage), tensor._version, start)
        return _Saved(known[2], False, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())

    def _take(self, data: torch.Tensor) -> int:
        """Copy bytes into the block; return where they begin."""
        start, self.nbytes = self.nbytes, self.nbytes + aligned(len(data))
        if self._arena is not None:
            if self.nbytes > self._room:
                raise TooLarge(f"activations take more than the {self._room:,} bytes that they took in the pilot.")
            with uncounted(self._arena):
                place = self._arena[self._block + start : self._block + start + len(data)]
            copy_bytes(place, data)
        return start

    def _unpack(self, saved: _Saved | torch.Tensor) -> torch.Tensor:
        if isinstance(saved, torch.Tensor):
            return saved
        assert self._arena is not None
        with uncounted(self._arena):
            return saved.view(self._arena, self._weights if saved.in_weights else self._block)


@dataclass(frozen=True, slots=True)
class KeptForward:
    """The graph of one forward, for its backward.

    edges: of the outputs that want a gradient. loss: of the last shard.
    """

    minibatch: int
    saved: SavedTensors
    entry: Boundary
    edges: tuple[GradientEdge, ...]
    loss: float | None

    def backward(self, gradients: Sequence[torch.Tensor | None], seeds: Seeds = ()) -> list[torch.Tensor | None]:
        """Go backward; return the gradients of the input. gradients: of the outputs, none for the last shard's loss."""
        if self.loss is not None:
            torch.autograd.backward(self.edges)
        else:
            go_backward(self.edges, gradients, seeds)
        return self.entry.gradients()


def forward_keeping(
    layers: Sequence[nn.Module],
    tree: Any,
    requires_grad: Sequence[bool],
    minibatch: int,
    saved: SavedTensors,
    loss_fn: Loss | None = None,
    target: Any = None,
    options: StepOptions = PLAIN,
) -> tuple[Any, KeptForward]:
    """Run a shard's forward; return its output and what its backward needs. The last shard's takes its loss."""
    with torch.enable_grad(), saved.hooks():
        entry = Boundary(tree, requires_grad)
        with options.casting(device_type(tree)):
            output = run_layers(layers, entry.value)
            if loss_fn is not None:
                output = loss_fn(output, target)
        roots = output if loss_fn is None else options.objective(output)
    entry.value = None
    saved.forget_storages()
    edges = tuple(get_gradient_edge(leaf) for leaf in pytree.tree_leaves(roots) if needs_grad(leaf))
    loss = None if loss_fn is None else output.item()
    return output, KeptForward(minibatch, saved, entry, edges, loss)


def storages(tensors: Iterable[torch.Tensor]) -> set[int]:
    """Return the identities of what the tensors lie in."""
    return {storage._cdata for tensor in tensors for storage in storages_of(tensor)}


def _span(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes from a tensor's first element to its last, whatever lies between them."""
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return _bytes(tensor, tensor.storage_offset(), reach if tensor.numel() else 0)


def _bytes(tensor: torch.Tensor, start: int, num_elements: int) -> torch.Tensor:
    """Return so many elements of a tensor's storage as uint8."""
    with uncounted(tensor):
        return tensor.detach().as_strided((num_elements,), (1,), start).view(torch.uint8)
