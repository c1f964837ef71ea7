"""Divides a recorded run into the windows of layers, and makes the layers."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from torch import nn

from executor.errors import ExtractionError
from executor.extract.pieces import Piece
from executor.extract.recording import Recording
from executor.extract.skeleton import Parts, skeleton
from executor.extract.window import ExtractedLayer, Window

_LOG = logging.getLogger(__name__)
_WHY = (
    "code between them computes with gradient what parts far apart need (a residual connection around a part, perhaps)."
)
_ALONE_FRACTION = 1 / 8  # of the largest piece's weights; smaller ones outside stacks join what is before them


def first_calls(recording: Recording, pieces: Collection[Piece]) -> list[int]:
    """Return the call that each layer begins with.

    A layer begins with an element of a stack or a large piece; what is small (norms, pooling, dropout)
    runs along with what is before it. No layer begins within a span of the recording.
    """
    calls = recording.calls
    by_name = {piece.name: piece for piece in pieces}
    largest = max(by_name[name].num_weights for name in calls)
    firsts, is_weighty = [0], False
    for number, name in enumerate(calls):
        begins = _begins(by_name[name], largest)
        if begins and is_weighty and not any(low < number <= high for low, high in recording.spans):
            firsts.append(number)
        is_weighty = is_weighty or begins
    return firsts


def _begins(piece: Piece, largest: int) -> bool:
    has_matrix = any(parameter.ndim > 1 for parameter in piece.module.parameters())
    return has_matrix and (piece.in_stack or piece.num_weights >= _ALONE_FRACTION * largest)


def layers_from(model: nn.Module, pieces: Collection[Piece], recording: Recording, writable: bool) -> list[nn.Module]:
    """Return the chain of layers, which hold the model's own parameters and buffers; writable: see `Window`."""
    calls = tuple(recording.calls)
    if not calls:
        raise ExtractionError(
            "its forward calls none of its parts; if it is compiled, give the module that was compiled, or register "
            "an extractor."
        )
    firsts = first_calls(recording, pieces)
    if len(firsts) < len(first_calls(replace(recording, spans=[]), pieces)):
        if len(firsts) == 1:
            raise ExtractionError(
                f"its parts cannot be separated: {_WHY} Put such code into the parts, give a list of layers, or "
                "register an extractor."
            )
        _LOG.warning("some parts of %s stay in one layer, however large: %s", type(model).__name__, _WHY)
    layers: list[nn.Module] = []
    for first, end in zip(firsts, [*firsts[1:], len(calls)], strict=True):
        window = Window(calls, first, end, recording.needed_from(end), writable)
        parts = Parts(pieces, calls[first:end], recording.parameters(first, end), recording.inspected)
        layers.append(ExtractedLayer(*skeleton(model, parts, window), window, not parts.visible))
    return layers
