"""The released Hydra's scheduler: Sharded-LRTF with the code's own estimate."""

from __future__ import annotations

from dataclasses import dataclass

from hydrasim.policies.sharded_lrtf import ShardedLRTF


@dataclass(frozen=True)
class HydraReleased(ShardedLRTF):
    """Sharded-LRTF as the public code computes it; pair it with the mechanism of the same name.

    Source: knagrecha/hydra at 45184df; the differences are the two switches.
    """

    registered_name = "hydra-released"
    within_minibatch: bool = False
    online_minibatch_s: bool = True
