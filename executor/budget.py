"""Counts live tensor storages as they come and go, and stops a unit that exceeds its budget."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from executor.errors import BudgetExceeded

_PLAIN = (torch.Tensor, nn.Parameter)


def uncounted(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Return a context in which views are made of a tensor, past the mode, which costs microseconds an operator.

    A tensor without data is none without its mode.
    """
    made: AbstractContextManager[object] = torch._C._DisableTorchDispatch() if type(tensor) in _PLAIN else nullcontext()
    return made


class BudgetTracker(TorchDispatchMode):
    """Live bytes of every storage made while the mode is on, until it is freed.

    Storages passed to `exempt` (the arena, constant buffers) do not count. What an operator allocates
    and frees within itself is not seen: operator scratch is outside the budget.

    peak_bytes: the most that was alive at once since `reset_peak`.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes
        self.live_bytes = self.peak_bytes = 0
        self._live: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}

    def exempt(self, tree: Any) -> None:
        """Leave the storages of these tensors out of the count for as long as they live."""
        for tensor in pytree.tree_leaves(tree):
            if isinstance(tensor, torch.Tensor):
                for storage in storages_of(tensor):
                    self._add(storage, count=False)

    def reset_peak(self) -> None:
        self.peak_bytes = self.live_bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then count what it made."""
        result = func(*args, **kwargs) if kwargs else func(*args)
        if type(result) is torch.Tensor and result.layout is torch.strided:  # mostly; every operator pays for this
            storage = result.untyped_storage()
            if storage._cdata not in self._live:
                self._add(storage)
            return result
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                for storage in storages_of(tensor):
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage, count: bool = True) -> None:
        key = storage._cdata
        if key in self._live:
            if not count and self._live[key][1]:
                self.live_bytes -= self._live[key][1]
                self._live[key] = (self._live[key][0], 0)
            return
        nbytes = storage.nbytes() if count else 0
        self._live[key] = (weakref.ref(storage, lambda _: self._remove(key)), nbytes)
        if not nbytes:  # another thread may leave some out while units count: it must not write the sum
            return
        self.live_bytes += nbytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        if self.limit_bytes is not None and self.live_bytes > self.limit_bytes:
            raise BudgetExceeded(
                f"activations, gradients and temporaries came to {self.live_bytes:,} bytes; "
                f"the device's budget for them is {self.limit_bytes:,}."
            )

    def _remove(self, key: int) -> None:
        entry = self._live.pop(key, None)
        if entry is not None and entry[1]:
            self.live_bytes -= entry[1]


def storages_of(tensor: torch.Tensor) -> tuple[torch.UntypedStorage, ...]:
    """Return where a tensor's elements lie; a sparse one has them in two places."""
    if tensor.layout is torch.strided:
        return (tensor.untyped_storage(),)
    if tensor.layout is torch.sparse_coo:
        return tensor._indices().untyped_storage(), tensor._values().untyped_storage()
    return ()
