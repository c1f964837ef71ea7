"""How a shard's share of an optimizer is made in another process."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class OptimizerRecipe:
    """Makes the optimizer of one shard wherever it is unpickled; None for a shard without one.

    attributes: what the whole model's optimizer keeps beside groups and state. members: the group of
    each of the shard's parameters.
    """

    kind: type[torch.optim.Optimizer] | None
    attributes: dict[str, Any] = field(default_factory=dict)
    groups: tuple[dict[str, Any], ...] = ()
    members: tuple[int | None, ...] = ()

    def make(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer | None:
        """Make it over these parameters, which correspond to those of the recipe one by one.

        Unpickled rather than constructed: what a constructor was called with cannot be read back.
        """
        if self.kind is None:
            return None
        groups = [
            {"params": [p for p, member in zip(parameters, self.members, strict=True) if member == index], **options}
            for index, options in enumerate(self.groups)
        ]
        made = self.kind.__new__(self.kind)
        made.__setstate__({**self.attributes, "state": defaultdict(dict), "param_groups": groups})
        return made
