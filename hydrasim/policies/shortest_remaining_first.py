"""The opposite of LRTF, as a yardstick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.policies.base import Policy

if TYPE_CHECKING:
    from hydrasim.view import View
    from hydrasim.workload import ShardUnit


@dataclass(frozen=True)
class ShortestRemainingFirst(Policy):
    """Pick the eligible unit whose job has the least training time left.

    Source: shortest remaining processing time (Schrage 1968), on jobs' believed seconds.
    """

    def choose(self, device: int, view: View) -> ShardUnit | None:
        return min(view.eligible(device), key=lambda unit: view.job(unit.job).remaining_s)
