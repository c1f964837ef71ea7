"""Evaluation: layers in evaluation mode, without gradients, and what a metric says of what they return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from executor.batches import num_samples
from executor.compute import device_type, run_layers
from executor.step import StepOptions

Metric = Callable[[Any, Any], Any]  # of output and target: a number, or a tensor of one element


class Score(NamedTuple):
    """A metric's value on one mini-batch, and how many samples it is of."""

    value: float
    num_samples: int


@contextmanager
def evaluating(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Have layers in evaluation mode, without gradients; afterwards each module is in the mode that it was in."""
    layers = list(layers)
    before = [(module, module.training) for layer in layers for module in layer.modules()]
    try:
        for layer in layers:
            layer.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in before:
            module.training = mode


def evaluate(
    layers: Sequence[nn.Module], tree: Any, options: StepOptions, metric: Metric | None = None, target: Any = None
) -> Any:
    """Run a shard's forward in evaluation mode; return its output, or for the last shard its score.

    The boundary is copied, because a first layer that works in place must not touch it. metric, target: of the last
    shard.
    """
    with evaluating(layers), options.casting(device_type(tree)):
        output = run_layers(layers, pytree.tree_map_only(torch.Tensor, torch.clone, tree))
        return output if metric is None else Score(float(metric(output, target)), num_samples(target, output))


def mean_of(scores: Sequence[Score]) -> float:
    """Return the mean of an epoch's scores, by their samples; where there are none, that of the mini-batches."""
    if not any(score.num_samples for score in scores):
        scores = [Score(score.value, 1) for score in scores]
    total, count = 0.0, 0
    for score in scores:  # not by sum(), which from Python 3.12 on adds with fewer errors than a user's loop
        total, count = total + score.value * score.num_samples, count + score.num_samples
    return total / count
