"""Replays a plan: each device runs its list, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydrasim.plan import Plan
from hydrasim.policies.base import Policy

if TYPE_CHECKING:
    from hydrasim.view import View
    from hydrasim.workload import ShardUnit


@dataclass(frozen=True)
class FollowPlan(Policy):
    """Issue the plan's next unit as soon as the units before it have been issued.

    Unlike other policies it may look past units that still run elsewhere, since the commands it leads to
    wait for those; that is what makes a plan's command list independent of time.

    Source: ours; design notes in ARCHITECTURE.md.
    """

    plan: Plan = field()  # type: ignore[misc]  # required, unlike in the base

    def choose(self, device: int, view: View) -> ShardUnit | None:
        return next(iter(view.eligible(device)), None)
