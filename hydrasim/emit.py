"""How those who decide what moves hand out commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hydrasim.command import Command, Kind, Lane
    from hydrasim.dataflow import BlockKey
    from hydrasim.memory import Block
    from hydrasim.workload import ActivationMode, ShardUnit


class Emit(Protocol):
    """Number a command and put it on the list that goes to the backend."""

    def __call__(
        self,
        kind: Kind,
        lane: Lane,
        device: int,
        unit: ShardUnit,
        after: set[int],
        block: Block | None = None,
        start: int = 0,
        nbytes: int = 0,
        places: tuple[tuple[BlockKey, int], ...] = (),
        mode: ActivationMode | None = None,
        live_bytes: int = 0,
    ) -> Command: ...
