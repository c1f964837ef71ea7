"""Jobs in the order in which they were submitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.policies.base import Policy

if TYPE_CHECKING:
    from hydrasim.view import View
    from hydrasim.workload import ShardUnit


@dataclass(frozen=True)
class Fifo(Policy):
    """Pick the eligible unit of the job submitted first.

    Source: first in, first out, the textbook queue discipline.
    """

    def choose(self, device: int, view: View) -> ShardUnit | None:
        return min(view.eligible(device), key=lambda unit: view.job(unit.job).order)
