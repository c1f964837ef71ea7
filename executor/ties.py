"""Weights that layers of several shards share: each of these has a copy, and all copies step on the same gradient.

Backwards sum it on their way down: each shard starts from what the one above it handed on, in block t of
`hydrasim.dataflow`, and so adds its own uses in the order in which one graph of the whole model would, the last first.
The lowest shard has the whole. Every copy's optimizer state is its own, and the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from executor.layout import parameters_of
from executor.tensors import TreeSpec, spec_of


@dataclass(frozen=True)
class Sharing:
    """What one shard has of a job's tied weights; an entry for each.

    held: its place among the shard's parameters, None where the shard has no copy. above: a later shard has one.
    """

    held: tuple[int | None, ...]
    above: tuple[bool, ...]


@dataclass(frozen=True)
class Ties:
    """A job's tied weights, in its cuts.

    gradients: how theirs lie in a block. order: their places in the model. shards: of each, None where it has no copy.
    """

    gradients: TreeSpec
    order: tuple[int, ...]
    shards: tuple[Sharing | None, ...]

    @property
    def sharing_shards(self) -> tuple[int, ...]:
        """The shards that have copies, in rising order."""
        return tuple(index for index, sharing in enumerate(self.shards) if sharing is not None)


def shared_parameters(parts: Sequence[Sequence[nn.Module]]) -> set[int]:
    """Return the identities of the trained parameters that more than one of these groups of layers has."""
    counts = Counter(id(p) for layers in parts for p in parameters_of(layers) if p.requires_grad)
    return {identity for identity, count in counts.items() if count > 1}


def ties_of(shards: Sequence[Sequence[nn.Module]], parameters: Iterable[nn.Parameter]) -> Ties | None:
    """Find the weights that a job's shards share; None if there are none. parameters: of the model, in its order."""
    shared = shared_parameters(shards)
    if not shared:
        return None
    tied = [(place, parameter) for place, parameter in enumerate(parameters) if id(parameter) in shared]
    places = [{id(parameter): index for index, parameter in enumerate(parameters_of(layers))} for layers in shards]
    sharings = [
        Sharing(
            tuple(mine.get(id(parameter)) for _, parameter in tied),
            tuple(any(id(parameter) in later for later in places[shard + 1 :]) for _, parameter in tied),
        )
        for shard, mine in enumerate(places)
    ]
    return Ties(
        spec_of([parameter.detach() for _, parameter in tied]),
        tuple(place for place, _ in tied),
        tuple(sharing if any(index is not None for index in sharing.held) else None for sharing in sharings),
    )


def leave(
    sharing: Sharing,
    parameters: Sequence[nn.Parameter],
    places: Sequence[torch.Tensor],
    above: Sequence[torch.Tensor],
    earlier: Sequence[torch.Tensor],
) -> None:
    """Put the sums that a backward has come to into their places; earlier: those of the mini-batches that add up."""
    for index, (held, place) in enumerate(zip(sharing.held, places, strict=True)):
        found = parameters[held].grad if held is not None else above[index] if sharing.above[index] else None
        if found is None:
            continue
        if earlier:
            torch.add(earlier[index], found, out=place)
        else:
            place.copy_(found)
