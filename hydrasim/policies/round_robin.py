"""Jobs take turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.policies.base import Policy

if TYPE_CHECKING:
    from hydrasim.view import View
    from hydrasim.workload import ShardUnit


@dataclass(frozen=True)
class RoundRobin(Policy):
    """Pick the eligible unit of the job that was served longest ago.

    Source: round-robin, the textbook queue discipline, on whole shard units.
    """

    def choose(self, device: int, view: View) -> ShardUnit | None:
        return min(view.eligible(device), key=lambda unit: view.job(unit.job).last_issue)
