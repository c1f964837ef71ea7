"""Single-model spilling: one job at a time on one device, the other devices idle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.policies.base import Policy

if TYPE_CHECKING:
    from hydrasim.view import View
    from hydrasim.workload import ShardUnit


@dataclass(frozen=True)
class OneModelSpilling(Policy):
    """Train the jobs one after another on device 0.

    Source: the paper's section 4.2, spilling before SHARP; what single-model offloaders do.
    """

    work_conserving = False

    def choose(self, device: int, view: View) -> ShardUnit | None:
        if device != 0:
            return None
        return min(view.eligible(device), key=lambda unit: view.job(unit.job).order)
