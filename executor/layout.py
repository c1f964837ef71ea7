"""Where a shard's parameters and optimizer state lie within its block, and how modules are put there.

| parameters, moving buffers, each aligned | one flag a parameter: has state | optimizer state, each aligned |
0                          aligned(parameter_bytes)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from executor.tensors import Slot, slot_of
from hydrasim.dataflow import aligned


@dataclass(frozen=True, slots=True)
class StateSlot:
    """One optimizer tensor. on_host: the optimizer wants it in host memory even on a GPU."""

    parameter: int
    key: str
    slot: Slot
    on_host: bool


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """Places of a shard's tensors within its block, in bytes; parameters in the modules' own order.

    buffers: of a shard whose forward changes any, all of them, in the modules' order, counted with the parameters.
    """

    parameters: tuple[Slot, ...]
    parameter_bytes: int
    state: tuple[StateSlot, ...]
    optimizer_bytes: int
    buffers: tuple[Slot, ...] = ()

    @property
    def block_bytes(self) -> int:
        return aligned(self.parameter_bytes) + aligned(self.optimizer_bytes)

    def flags(self, block: torch.Tensor) -> torch.Tensor:
        """Return one byte a parameter: whether the optimizer has made its state."""
        start = aligned(self.parameter_bytes)
        return block[start : start + len(self.parameters)]


def parameters_of(layers: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Return a shard's parameters, each once, in order."""
    return list(nn.ModuleList(layers).parameters())


def buffers_of(layers: Sequence[nn.Module]) -> list[torch.Tensor]:
    """Return a shard's buffers, each once, in order."""
    return list(nn.ModuleList(layers).buffers())


def layout_of(
    parameters: Sequence[nn.Parameter],
    states: Sequence[dict[str, torch.Tensor]],
    buffers: Sequence[torch.Tensor] = (),
) -> ShardLayout:
    """Lay out parameters and the optimizer state that a first step made for each (empty: none), and moving buffers."""
    slots, offset = [], 0
    for tensor in (*parameters, *buffers):
        slots.append(slot_of(tensor, offset))
        offset += aligned(slots[-1].nbytes)
    parameter_bytes = offset
    state: list[StateSlot] = []
    if any(states):
        offset += aligned(len(parameters))
        for index, entry in enumerate(states):
            for key, tensor in entry.items():
                on_host = tensor.device.type == "cpu"
                state.append(StateSlot(index, key, slot_of(tensor.detach(), offset), on_host))
                offset += aligned(state[-1].slot.nbytes)
    own, moving = tuple(slots[: len(parameters)]), tuple(slots[len(parameters) :])
    return ShardLayout(own, parameter_bytes, tuple(state), offset - parameter_bytes, moving)


def state_on_host(
    layout: ShardLayout, optimizer: torch.optim.Optimizer | None, parameters: Sequence[nn.Parameter]
) -> ShardLayout:
    """Say which optimizer state belongs in host memory even on a GPU; the pilot, on a CPU, cannot tell.

    Source: torch's own rule in Optimizer.load_state_dict: `step`, unless the group is fused or capturable.
    """
    groups = [] if optimizer is None else optimizer.param_groups
    on_device = {id(p) for group in groups if group.get("fused") or group.get("capturable") for p in group["params"]}
    state = tuple(
        replace(entry, on_host=entry.key == "step" and id(parameters[entry.parameter]) not in on_device)
        for entry in layout.state
    )
    return replace(layout, state=state)


class ShardOnDevice:
    """A shard's modules and optimizer, pointed at the place in device memory where their block lies now."""

    def __init__(
        self, layers: Sequence[nn.Module], optimizer: torch.optim.Optimizer | None, layout: ShardLayout
    ) -> None:
        self.layers = layers
        self.parameters = parameters_of(layers)
        self.buffers = buffers_of(layers)
        self._versions = [buffer._version for buffer in self.buffers]
        self.optimizer = optimizer
        self._layout = layout
        self._attached: int | None = None

    @property
    def parameter_bytes(self) -> int:
        """How many leading bytes of the block hold parameters."""
        return self._layout.parameter_bytes

    def attach_parameters(self, block: torch.Tensor) -> None:
        """Make the parameters, and the buffers that forwards change, views of the block."""
        if self._attached != block.data_ptr():
            for parameter, slot in zip(self.parameters, self._layout.parameters, strict=True):
                parameter.data = slot.view(block)
            for buffer, slot in zip(self.buffers, self._layout.buffers, strict=False):
                buffer.data = slot.view(block)
            self._attached = block.data_ptr()

    def detach(self) -> None:
        """Forget where the parameters are; something else may have moved them."""
        self._attached = None

    def attach_state(self, block: torch.Tensor) -> None:
        """Hand the optimizer the state in the block, for parameters that have any yet."""
        if self.optimizer is None:
            return
        self.optimizer.state.clear()
        if not self._layout.state:
            return
        made = self._layout.flags(block).tolist()
        for entry in self._layout.state:
            if made[entry.parameter]:
                tensor = entry.slot.view(block)
                value = tensor.cpu() if entry.on_host and tensor.device.type != "cpu" else tensor
                self.optimizer.state[self.parameters[entry.parameter]][entry.key] = value

    def has_state(self, block: torch.Tensor) -> bool:
        """Tell whether the optimizer has made any state yet."""
        return bool(self._layout.state) and bool(self._layout.flags(block).any())

    def keep_state(self, block: torch.Tensor, only: nn.Parameter | None = None) -> None:
        """Copy state that the optimizer holds elsewhere into the block, and have it use the block's."""
        if self.optimizer is None or not self._layout.state:
            return
        flags = self._layout.flags(block)
        for entry in self._layout.state:
            parameter = self.parameters[entry.parameter]
            if (only is not None and parameter is not only) or parameter not in self.optimizer.state:
                continue
            place = entry.slot.view(block)
            value = self.optimizer.state[parameter][entry.key]
            if value.data_ptr() != place.data_ptr():
                place.copy_(value)
                self.optimizer.state[parameter][entry.key] = place
                flags[entry.parameter] = 1

    def parameters_with_gradient(self) -> list[bool]:
        return [parameter.grad is not None for parameter in self.parameters]

    @contextmanager
    def buffers_kept(self) -> Iterator[None]:
        """Undo what a forward that has run before does to buffers when it runs again."""
        before = [buffer.clone() for buffer in self.moving_buffers]
        yield
        for buffer, value in zip(self.moving_buffers, before, strict=True):
            buffer.copy_(value)

    def check_buffers(self) -> None:
        """Make sure that a forward changed no buffer of a shard whose buffers stay where they are.

        Raises:
            RuntimeError: it did.
        """
        if not self._layout.buffers and self._versions != [buffer._version for buffer in self.buffers]:
            raise RuntimeError(
                "a forward changed a buffer, unlike in the pilot; buffers that only sometimes change are not supported."
            )

    @property
    def moving_buffers(self) -> list[torch.Tensor]:
        """The buffers that lie in the block, since forwards change them."""
        return self.buffers if self._layout.buffers else []

    def attach_gradients(self, gradients: Sequence[torch.Tensor | None]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def clear_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def tensor_state(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, complain: Callable[[str], None]
) -> dict[str, torch.Tensor]:
    """Return a parameter's optimizer state, all of which must be tensors."""
    state = {key: value for key, value in optimizer.state.get(parameter, {}).items() if value is not None}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            complain(
                f"optimizer {type(optimizer).__name__} keeps {key!r} as a {type(value).__name__}, not as a tensor."
            )
    return state
