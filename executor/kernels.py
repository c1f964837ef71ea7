"""Counts kernels as operators are dispatched: the FLOPs of matrix products, and the bytes read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from executor.budget import storages_of
from executor.errors import JobError
from hydrasim.roofline import Kernel

aten = torch.ops.aten
FORWARD, BACKWARD, UPDATE = PHASES = "forward", "backward", "update"

# What reads only some rows of its first tensor, what does not read it, what touches no element, what we cannot count.
_GATHERS = {aten.embedding, aten.index_select, aten.gather, aten.index}
_OVERWRITES = {aten.zero_, aten.fill_, aten.copy_, aten.normal_, aten.uniform_, aten.bernoulli_}
_FREE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
_UNKNOWN = {aten.mkldnn_rnn_layer}
_FLOPS: Mapping[Any, Callable[..., int]] = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
        g.shape, q.shape, k.shape, v.shape
    ),
}


class KernelCounter(TorchDispatchMode):
    """Notes the kernels of the last forward, its backward, and the one update after it.

    After the forward a value may be read, since it is the loss, or how many steps an optimizer has made.
    """

    def __init__(self, merged_updates: bool) -> None:
        super().__init__()
        self._merged_updates = merged_updates
        self._phase: str | None = None
        self._kernels: dict[str, list[tuple[Any, Kernel]]] = {}

    def __reduce__(self) -> Any:
        return object, ()  # it travels nowhere, but is reached when layers are searched for tensors

    def enter(self, phase: str | None) -> None:
        """Begin a phase, a forward anew; an update counts only right after a backward."""
        if phase == FORWARD:
            self._kernels = {name: [] for name in PHASES}
        if phase != UPDATE or self._phase == BACKWARD:
            self._phase = phase

    def found(self) -> dict[str, tuple[Kernel, ...]]:
        """Return the kernels of each phase, as fields of a CountedShard, and stop."""
        self._phase = None
        found = {f"{phase}_kernels": tuple(kernel for _, kernel in self._kernels[phase]) for phase in PHASES}
        if self._merged_updates:
            merged: dict[Any, Kernel] = {}
            for packet, kernel in self._kernels[UPDATE]:
                before = merged.get(packet, Kernel(0, 0))
                merged[packet] = Kernel(before.flops + kernel.flops, before.nbytes + kernel.nbytes)
            found[f"{UPDATE}_kernels"] = tuple(merged.values())
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet in _UNKNOWN:
            raise JobError(f"{packet} cannot be counted: its FLOPs are not known; measure a profile instead.")
        try:
            result = func(*args, **kwargs)
        except DataDependentOutputException:
            if self._phase == FORWARD or packet not in (aten._local_scalar_dense, aten.equal):
                raise
            return True if packet is aten.equal else 1
        if self._phase is not None:
            nbytes = _traffic_bytes(func, args, kwargs, result)
            flops = _FLOPS[packet](*args, **kwargs, out_val=result) if packet in _FLOPS else 0
            if nbytes or flops:
                self._kernels[self._phase].append((packet, Kernel(int(flops), nbytes)))
        return result


def _traffic_bytes(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Return the bytes that an operator reads and writes, each of its tensors once; views move none."""
    packet = func._overloadpacket
    if packet in _FREE:
        return 0
    written: list[torch.Tensor] = []
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += _tensors(value)
    read = _tensors((args, kwargs))
    there = {s._cdata for tensor in read for s in storages_of(tensor)}
    written += [t for t in _tensors(result) if not all(s._cdata in there for s in storages_of(t))]
    if not written:
        return 0
    written_bytes = sum(map(_nbytes, written))
    read_bytes = [_nbytes(tensor) for tensor in read]
    if packet in _OVERWRITES:
        read_bytes[0] = 0
    elif packet in _GATHERS:
        read_bytes[0] = min(read_bytes[0], written_bytes)
    return sum(read_bytes) + written_bytes


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _nbytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor's elements; repeated ones lie in memory once."""
    stored = sum(storage.nbytes() for storage in storages_of(tensor))
    return min(stored, tensor.numel() * tensor.element_size()) if tensor.layout is torch.strided else stored
