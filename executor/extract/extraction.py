"""From an unmodified module to a chain of layers that is proven to compute the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from executor import randomness
from executor.batches import Batch
from executor.compute import Loss
from executor.errors import ExtractionError
from executor.extract.pieces import Piece, find_pieces
from executor.extract.proof import Proof, attributes_restored, buffers_restored, check_evaluation
from executor.extract.recording import record
from executor.extract.windows import layers_from
from executor.tensors import packed
from hydrasim.errors import told

Extractor = Callable[[nn.Module], list[nn.Module]]
_EXTRACTORS: dict[type[nn.Module], Extractor] = {}


def extractor(kind: type[nn.Module]) -> Callable[[Extractor], Extractor]:
    """Register a function that turns modules of a class (and of its subclasses) into layers.

    The layers hold the module's own parameters, and are proven as those found by themselves are.
    """

    def register(function: Extractor) -> Extractor:
        _EXTRACTORS[kind] = function
        return function

    return register


class Keywords(nn.Module):
    """Calls a model with a batch that is a dict: model(**batch)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """Return what the model returns."""
        return self.model(**batch)


def called_with(model: nn.Module, example_input: Any) -> nn.Module:
    """Return the model as a loop calls it, with one input: `Keywords` of it if that is a dict of its arguments."""
    if not isinstance(example_input, dict) or not all(isinstance(key, str) for key in example_input):
        return model
    try:
        inspect.signature(model.forward).bind(**example_input)
    except TypeError:
        return model
    return Keywords(model)


def layers_of(model: nn.Module, example_input: Any, loss_fn: Loss | None = None, target: Any = None) -> list[nn.Module]:
    """Turn a module into a chain of layers, each fed the output of the one before, and prove it on a batch.

    The layers hold the module's own parameters and buffers, so training them trains the module; the mode they
    are in (train or eval) is theirs, and at first as the module's. The proof
    runs model and chain as they stand (in train mode with dropout, if so) and compares outputs, gradients,
    buffers and random state byte for byte; random state, gradients and buffers are then as before.

    loss_fn(output, target): what the gradients are of; without one, all outputs count.

    Raises:
        ExtractionError: no chain was found that is the same; it says what differs and what to do.
    """
    inner = model.model if isinstance(model, Keywords) else model
    failures: list[Exception] = []
    try:
        proof = Proof(model, example_input, target, loss_fn)
        for make in _ways(model, inner, packed(example_input)):
            try:
                layers = make()
                proof.check(layers)
            except Exception as reason:
                failures.append(reason)
            else:
                return layers
        raise failures[0]
    except ExtractionError as reason:
        raise ExtractionError(f"{type(inner).__name__}: {reason}") from reason
    except Exception as reason:
        raise ExtractionError(
            f"{type(inner).__name__} could not be taken apart: {told(reason)}. See that it runs on the example batch; "
            "else give a list of layers, or register an extractor."
        ) from reason


def _ways(model: nn.Module, inner: nn.Module, example_input: Any) -> list[Callable[[], list[nn.Module]]]:
    """Return how layers can be made: as registered; else from fine pieces, or such that need less of the model."""
    registered = next((_EXTRACTORS[kind] for kind in type(inner).__mro__ if kind in _EXTRACTORS), None)
    if registered is not None:
        return [partial(registered, inner)]
    fine, coarse = find_pieces(model), find_pieces(model, nested=False)
    ways = [partial(_found, model, fine, example_input)]
    if len(fine) > len(coarse):
        ways.append(partial(_found, model, coarse, example_input))
    return [*ways, partial(_found, model, fine, example_input, writable=True)]


def _found(model: nn.Module, pieces: list[Piece], example_input: Any, writable: bool = False) -> list[nn.Module]:
    if not any(piece.num_weights for piece in pieces):
        raise ExtractionError("it has no parts with parameters to make layers of; give a list of layers.")
    before = randomness.save()
    try:
        with attributes_restored(model), buffers_restored(model), torch.enable_grad():
            recording = record(model, pieces, example_input)
    finally:
        randomness.restore(before)
    return layers_from(model, pieces, recording, writable)


def chain_of(
    model: nn.Module | list[nn.Module], batch: Batch, loss_fn: Loss, evaluation_batch: Batch | None = None
) -> list[nn.Module]:
    """Return the layers of whatever a user calls a model: a chain as it is, any other module extracted.

    batch: an (input, target) pair as the job's dataloader yields it. evaluation_batch: one on which it must also be the
    same in evaluation mode.

    Raises:
        ExtractionError: no chain was found that is the same.
    """
    if isinstance(model, nn.Sequential):
        return list(model)
    if isinstance(model, list):
        return model
    example_input, target = batch
    called = called_with(model, example_input)
    layers = layers_of(called, example_input, loss_fn, target)
    if evaluation_batch is not None:
        check_evaluation(called, layers, evaluation_batch[0])
    return layers
