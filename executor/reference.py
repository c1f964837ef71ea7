"""The plain training loop that defines "exact": what a user would write with one model in memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import islice
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
    accumulate: int = 1,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    autocast: torch.dtype | None = None,
    grad_scaler: torch.amp.GradScaler | None = None,
    evaluate: Callable[[torch.nn.Module], Any] = lambda _: None,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[list[float], torch.optim.Optimizer]:
    """Seed, train in place, evaluate after epochs; return every mini-batch's loss and the optimizer with its state."""
    torch.manual_seed(seed)
    random.seed(seed)
    model.to(device)
    if not isinstance(optimizer, torch.optim.Optimizer):
        optimizer = optimizer(model.parameters())
    schedule = None if scheduler is None else scheduler(optimizer)
    scaler = torch.amp.GradScaler(enabled=False) if grad_scaler is None else grad_scaler
    losses: list[float] = []
    for _ in range(epochs):
        for inputs, targets in islice(dataloader, None if max_steps is None else max_steps - len(losses)):
            if len(losses) % accumulate == 0:
                optimizer.zero_grad(set_to_none=True)
            with torch.autocast(torch.device(device).type, dtype=autocast, enabled=autocast is not None):
                loss = loss_fn(model(to_device(inputs, device)), to_device(targets, device))
            scaler.scale(loss / accumulate if accumulate > 1 else loss).backward()
            losses.append(loss.item())
            if len(losses) % accumulate == 0:
                scaler.unscale_(optimizer)
                if clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
                if clip_value is not None:
                    torch.nn.utils.clip_grad_value_(model.parameters(), clip_value)
                scaler.step(optimizer)
                scaler.update()
                if schedule is not None:
                    schedule.step()
        evaluate(model)
        if len(losses) == max_steps:
            break
    return losses, optimizer


def to_device(tree: Any, device: str) -> Any:
    """Return a tree with its tensors on a device."""
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), tree)
