"""The plain training loop that defines "exact": what a user would write with one model in memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import torch


def train_plain(
    model: torch.nn.Module,
    loss_fn: Callable[[Any, Any], torch.Tensor],
    dataloader: Iterable[tuple[Any, Any]],
    optimizer: torch.optim.Optimizer | Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer],
    *,
    epochs: int = 1,
    max_steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[list[float], torch.optim.Optimizer]:
    """Train the model in place; return the loss of every mini-batch and the optimizer with its state.

    The random streams are seeded here, after the model has been built.
    """
    torch.manual_seed(seed)
    random.seed(seed)
    model.to(device)
    if not isinstance(optimizer, torch.optim.Optimizer):
        optimizer = optimizer(model.parameters())
    losses: list[float] = []
    for _ in range(epochs):
        for inputs, targets in dataloader:
            if len(losses) == max_steps:
                return losses, optimizer
            optimizer.zero_grad(set_to_none=True)
            loss = loss_fn(model(_to(inputs, device)), _to(targets, device))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, optimizer


def _to(tree: Any, device: str) -> Any:
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), tree)
