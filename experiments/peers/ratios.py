"""Ratios of paired runs: the median, and a bootstrap interval around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 10_000
_SEED = 0
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ours is: median of the pairs, and the 95 % interval of that median."""

    value: float
    low: float
    high: float
    num_pairs: int


def ratio_of_pairs(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """Return how many times as fast ours is, from the seconds of ours and of a rival for the same work, pair by pair.

    Pairs are drawn again with replacement, as many as there are, and the median is taken each time. The same pairs
    give the same interval.
    """
    ratios = np.array([rival_s / ours_s for ours_s, rival_s in pairs])
    drawn = np.random.default_rng(_SEED).integers(len(ratios), size=(NUM_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), _PERCENTILES)
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))
