"""Copies between the host store and a device's arena, one contiguous copy a command."""

from __future__ import annotations

from typing import Any

from executor.chaos import Chaos
from executor.devices import DeviceMemory
from executor.host_store import HEADER_BYTES, StoreView
from executor.messages import Order
from hydrasim.dataflow import BlockKey

_SHAPED = ("x", "y", "g")  # boundaries say how they are shaped; the worker knows it of all other blocks


def spec_key(key: BlockKey) -> BlockKey:
    """Name a boundary by its place: no more than two mini-batches of a job are ever on a device."""
    return key._replace(minibatch=key.minibatch % 2)


class Transfers:
    """The h2d and d2h lanes' work. specs: shapes of the boundaries on this device, by block."""

    def __init__(self, store: StoreView, memory: DeviceMemory, specs: dict[Any, Any], chaos: Chaos | None) -> None:
        self._store, self._memory, self._specs, self._chaos = store, memory, specs, chaos

    def load(self, order: Order) -> None:
        """Copy bytes of a block, or all of a boundary and its shape, to the device."""
        command = order.command
        assert command.block is not None
        region = order.region
        if command.block.kind != "w":
            region = self._store.boundary(command.block)
            if command.start == 0 and command.block.kind in _SHAPED:
                self._specs[spec_key(command.block)] = self._store.read_spec(region)
            region += HEADER_BYTES
        source = self._store.tensor(region + command.start, command.nbytes)
        start = command.offset + command.start
        self._memory.copy(self._memory.arena[start : start + command.nbytes], source, "h2d")

    def store(self, order: Order) -> None:
        """Copy a block to its region in the host store."""
        command = order.command
        assert command.block is not None
        region = order.region
        if command.block.kind != "w":
            region = self._store.boundary(command.block)
            if command.block.kind in _SHAPED:
                self._store.write_spec(region, self._specs[spec_key(command.block)])
            region += HEADER_BYTES
        target = self._store.tensor(region, command.nbytes)
        if self._chaos is not None:
            target.fill_(0xFF)
        source = self._memory.arena[command.offset : command.offset + command.nbytes]
        self._memory.copy(target, source, "d2h")
