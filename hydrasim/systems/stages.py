"""Cuts a model's shards into pipeline stages, one a device: contiguous, in memory, the slowest as fast as can be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

Stage = range  # of shards


def balance(
    num_shards: int, num_stages: int, stage_s: Callable[[int, Stage], float], fits: Callable[[int, Stage], bool]
) -> list[Stage]:
    """Return contiguous stages of at least one shard, such that the longest takes least; stages that fit if any do.

    stage_s: the seconds that the k-th stage takes with these shards; fits: whether it has room for them. With
    fewer shards than stages there are as many stages as shards. When nothing fits, the stages of least time are
    returned, so that whoever asks can say what they lack.

    Source: the linear partition problem by dynamic programming over (stages, shards).
    """
    count = min(num_stages, num_shards)
    cuts = _best_cuts(num_shards, count, stage_s, fits) or _best_cuts(num_shards, count, stage_s, lambda *_: True)
    assert cuts is not None
    return [range(start, end) for start, end in zip([0, *cuts], [*cuts, num_shards], strict=True)]


def _best_cuts(
    num_shards: int, count: int, stage_s: Callable[[int, Stage], float], fits: Callable[[int, Stage], bool]
) -> list[int] | None:
    """Return where stages begin but the first; None when no stages fit."""
    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]  # by stage: shards so far -> (longest, where it began)
    for stage in range(count):
        reached: dict[int, tuple[float, int]] = {}
        for end in range(stage + 1, num_shards - (count - stage - 1) + 1):
            for start, (longest, _) in best[stage].items():
                shards = range(start, end)
                if start < end and fits(stage, shards):
                    slowest = max(longest, stage_s(stage, shards))
                    if slowest < reached.get(end, (math.inf, 0))[0]:
                        reached[end] = (slowest, start)
        best.append(reached)
    if num_shards not in best[count]:
        return None
    cuts, end = [], num_shards
    for stage in range(count, 0, -1):
        end = best[stage][end][1]
        cuts.append(end)
    return cuts[-2::-1] if count > 1 else []
