"""The plain evaluation that defines "exact": what a user would write after each epoch of `train_plain`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from executor.reference import to_device


def evaluate_plain(
    model: torch.nn.Module,
    metric: Callable[[Any, Any], Any],
    dataloader: Iterable[tuple[Any, Any]],
    *,
    autocast: torch.dtype | None = None,
    device: str = "cpu",
) -> float:
    """Return the mean of a metric over mini-batches, by their samples: the length of a target's first tensor."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in dataloader:
            inputs, targets = to_device(tuple(batch), device)
            with torch.autocast(torch.device(device).type, dtype=autocast, enabled=autocast is not None):
                value = float(metric(model(inputs), targets))
            first = next(leaf for leaf in torch.utils._pytree.tree_leaves(targets) if isinstance(leaf, torch.Tensor))
            total, count = total + value * len(first), count + len(first)
    for module, mode in modes:
        module.training = mode
    return total / count
