"""Finds a model's pieces: the modules that run whole in one layer, such as the blocks of a stack.

What is no piece is a container; its forward code is *glue*, which every layer runs (see `window`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

_CONTAINERS_ONLY = (nn.ModuleList, nn.ModuleDict)  # cannot be called
_LISTS = (*_CONTAINERS_ONLY, nn.Sequential)
_OPENED_FRACTION = 0.25  # a block of blocks is opened if it holds more of the weights, as a stage of Swin may
_OPENED_ALONE_FRACTION = 0.5  # and so is any module without a stack, as the one inside a wrapper


@dataclass(frozen=True, eq=False)
class Piece:
    """A module that runs whole. num_weights: elements of its parameters. in_stack: an element of a list."""

    name: str
    module: nn.Module
    num_weights: int
    in_stack: bool


def find_pieces(model: nn.Module, nested: bool = True) -> list[Piece]:
    """Return the pieces in the order of the model's attributes, each module once.

    nested: whether blocks that are themselves stacks of blocks may be opened, one level deep.
    """
    total = num_weights(model)
    found: dict[int, Piece] = {}
    opened: set[int] = set()

    def visit(name: str, module: nn.Module, parent: nn.Module, opened_blocks: int) -> None:
        if id(module) in found or id(module) in opened:
            return
        in_stack = isinstance(parent, _LISTS)
        if in_stack and not isinstance(module, _CONTAINERS_ONLY):
            is_opened = opened_blocks < nested and _is_block_of_blocks(module, total)
        else:
            is_opened = module is model or _is_opened(module, total)
        if is_opened:
            opened.add(id(module))
            for child_name, child in module.named_children():
                visit(f"{name}.{child_name}".lstrip("."), child, module, opened_blocks + in_stack)
        else:
            found[id(module)] = Piece(name, module, num_weights(module), in_stack)

    visit("", model, model, 0)
    return list(found.values())


def num_weights(module: nn.Module) -> int:
    """Count the elements of a module's parameters, each once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _is_block_of_blocks(module: nn.Module, total: int) -> bool:
    return num_weights(module) > _OPENED_FRACTION * total and any(map(_is_stack_of_blocks, module.modules()))


def _is_opened(module: nn.Module, total: int) -> bool:
    if isinstance(module, _CONTAINERS_ONLY) or any(map(_is_stack, module.modules())):
        return True
    return num_weights(module) > _OPENED_ALONE_FRACTION * total and next(_weighty(module), None) is not None


def _is_stack(module: nn.Module) -> bool:
    return isinstance(module, _LISTS) and len(list(_weighty(module))) > 1


def _is_stack_of_blocks(module: nn.Module) -> bool:
    blocks = [child for child in _weighty(module) if list(child.children())]
    return isinstance(module, _LISTS) and len(blocks) > 1


def _weighty(module: nn.Module) -> Iterator[nn.Module]:
    """Return the children with parameters."""
    return (child for child in module.children() if next(child.parameters(), None) is not None)
