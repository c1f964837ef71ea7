"""Sharded-LRTF that counts what a move costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.policies.base import Policy

if TYPE_CHECKING:
    from hydrasim.view import View
    from hydrasim.workload import ShardUnit


@dataclass(frozen=True)
class ResidentLRTF(Policy):
    """Stay with a job whose data is on the device until another's remaining time exceeds it by the move.

    Exact LRTF changes jobs after nearly every unit once their remaining times are level, and reloads for
    ever. Here a job gains on the others only as fast as it costs to fetch it: its remaining time is
    reduced by `stickiness` times the seconds its unit would have to load.

    stickiness: loads that a switch must pay for; the switch away and back is two.

    Source: ours; design notes in ARCHITECTURE.md.
    """

    registered_name = "resident-lrtf"
    stickiness: float = 2.0

    def choose(self, device: int, view: View) -> ShardUnit | None:
        def gain_s(unit: ShardUnit) -> float:
            return view.job(unit.job).remaining_s - self.stickiness * view.load_s(unit, device)

        return max(view.eligible(device), key=gain_s)
