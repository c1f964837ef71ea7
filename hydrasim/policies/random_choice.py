"""A uniformly random eligible unit, the paper's baseline scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.policies.base import Policy

if TYPE_CHECKING:
    from hydrasim.view import View
    from hydrasim.workload import ShardUnit


@dataclass(frozen=True)
class RandomChoice(Policy):
    """Pick any eligible unit, all equally likely, from the run's seeded stream.

    Source: the paper's section 4.7 and Fig. 7.
    """

    registered_name = "random"

    def choose(self, device: int, view: View) -> ShardUnit | None:
        return view.rng.choice(view.eligible(device))
