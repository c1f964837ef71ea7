"""Whether two contenders train the same thing: their loss curves, held against the reference's."""

from __future__ import annotations

import math

from experiments.peers.contender import Losses

# Splitting a mini-batch changes the order of sums, and AdamW carries rounding on: 2.4e-7 on W after six mini-batches.
# Another training shows: on W-small in as many, clipping at 1.0 moves AdamW's losses by 9e-4, SGD's by 9e-2, and five
# times the weight decay AdamW's by 7e-5.
TOLERANCE = 1e-5


def largest_difference(losses: Losses, reference: Losses) -> float:
    """Return the largest relative difference of any mini-batch's loss; infinite where one of them has none."""
    if {name: len(found) for name, found in losses.items()} != {name: len(found) for name, found in reference.items()}:
        return math.inf
    differences = [
        abs(found / wanted - 1) if found != wanted else 0.0
        for name, curve in reference.items()
        for found, wanted in zip(losses[name], curve, strict=True)
    ]
    return max((math.inf if math.isnan(value) else value for value in differences), default=0.0)


def objection(difference: float, *, exact: bool) -> str:
    """Say what is wrong with a contender whose losses differ by that much; nothing if they are the reference's."""
    if exact and difference:
        return f"its losses are not the reference's bit for bit: they differ by {difference:.1e}."
    if difference > TOLERANCE:
        return f"it trains something else: its losses differ from the reference's by {difference:.1e}."
    return ""
