"""Finds a model's pieces: the modules that run whole in one layer, such as the blocks of a stack.

What is no piece is a container; its forward code is *glue*, which every layer runs (see `window`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_OPENED_FRACTION = 0.25  # a block of blocks is opened if it holds more of the weights, as a stage of Swin may
_OPENED_ALONE_FRACTION = 0.5  # and so is any module without a stack, as the one inside a wrapper


@dataclass(frozen=True, eq=False)
class Piece:
    """A module that runs whole. num_weights: elements of its parameters. in_stack: an element of a list."""

    name: str
    module: nn.Module
    num_weights: int
    in_stack: bool


def find_pieces(model: nn.Module) -> list[Piece]:
    """Return the pieces in the order of the model's attributes, each module once."""
    total = num_weights(model)
    found: dict[int, Piece] = {}
    opened: set[int] = set()

    def visit(name: str, module: nn.Module, in_stack: bool) -> None:
        if id(module) in found or id(module) in opened:
            return
        if module is model or _is_opened(module, in_stack, total):
            opened.add(id(module))
            for child_name, child in module.named_children():
                visit(f"{name}.{child_name}".lstrip("."), child, isinstance(module, _LISTS))
        else:
            found[id(module)] = Piece(name, module, num_weights(module), in_stack)

    visit("", model, False)
    return list(found.values())


def num_weights(module: nn.Module) -> int:
    """Count the elements of a module's parameters, each once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _is_opened(module: nn.Module, in_stack: bool, total: int) -> bool:
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return True  # cannot be called
    if in_stack:
        return num_weights(module) > _OPENED_FRACTION * total and any(map(_is_stack_of_blocks, module.modules()))
    if any(map(_is_stack, module.modules())):
        return True
    return num_weights(module) > _OPENED_ALONE_FRACTION * total and len(list(_weighty(module))) > 0


def _is_stack(module: nn.Module) -> bool:
    return isinstance(module, _LISTS) and len(list(_weighty(module))) > 1


def _is_stack_of_blocks(module: nn.Module) -> bool:
    blocks = [child for child in _weighty(module) if list(child.children())]
    return isinstance(module, _LISTS) and len(blocks) > 1


def _weighty(module: nn.Module) -> Iterator[nn.Module]:
    """Return the children with parameters."""
    return (child for child in module.children() if next(child.parameters(), None) is not None)
