"""One layer of an extracted chain: the model's own forward, of which only a window of calls really runs.

The layer runs the model's forward code from its beginning. Calls of pieces before the window are answered
with what they returned in earlier layers, as far as later ones need it; those in the window run; after the
last of them the forward is abandoned, and what later layers need becomes the boundary:

    forward code     embed(ids) ... block0(h, mask) ... block1(h, mask) ... head(h)
    layer 1 of 3     answered       answered            runs, stops         -
    boundary                        h of block0         h of block1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from executor import randomness
from executor.extract.skeleton import Elsewhere, Gate

Source = tuple[str | int, int]  # ("input", leaf) of the model's input, (call, leaf) of a call's output, ...


class _Reached(BaseException):
    """Ends a forward at the end of a window; no Exception, so that models do not catch it."""


class Window:
    """Answers the calls of pieces during one layer. calls: names of the pieces called, in order, on the first batch.

    first, end: of the window. kept: what of all that is made up to its end goes into its boundary.
    """

    def __init__(self, calls: tuple[str, ...], first: int, end: int, kept: frozenset[Source]) -> None:
        self.calls, self.first, self.end, self.kept = calls, first, end, kept
        self.device = torch.device("cpu")
        self._answers: list[Any] = []
        self._made: list[Any] = []
        self._count = 0
        self._random = b""

    @property
    def is_last(self) -> bool:
        return self.end == len(self.calls)

    def run(self, model: nn.Module, value: Any) -> Any:
        """Run the model's forward for this window on a boundary; return the next one, or at last the output."""
        inputs, answers = (value, ()) if self.first == 0 else value
        self.device = next((leaf.device for leaf in _tensors(value)), self.device)
        self._answers, self._count = list(answers), 0
        self._random = randomness.save(self._generator()) if self.first else b""
        try:
            output = model(_stood_in(inputs, self.device))
            if not self.is_last or self._count < len(self.calls):
                raise RuntimeError(_unlike(self.calls, self._count, "ended"))
            return output
        except _Reached:
            made = [*answers, *self._made]
            kept_inputs = _kept(inputs, lambda leaf: ("input", leaf) in self.kept)
            kept = [_kept(tree, lambda leaf, n=n: (n, leaf) in self.kept) for n, tree in enumerate(made)]
            return kept_inputs, tuple(kept)
        finally:
            self._answers, self._made = [], []

    def call(self, gate: Gate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = self._count
        self._count += 1
        if number >= len(self.calls) or self.calls[number] != gate.name:
            raise RuntimeError(_unlike(self.calls, number, f"called {gate.name}"))
        if number < self.first:
            if number == self.first - 1:  # what the code before drew, it has drawn before
                randomness.restore(self._random, self._generator())
            return _stood_in(self._answers[number], self.device)
        output = gate.run(args, kwargs)
        self._made.append(output)
        if number == self.end - 1 and not self.is_last:
            raise _Reached
        return output

    def inspected(self, name: str) -> None:
        """Nothing to note."""

    def _generator(self) -> torch.Generator | None:
        return torch.cuda.default_generators[self.device.index or 0] if self.device.type == "cuda" else None


class ExtractedLayer(nn.Module):
    """A layer of an extracted chain. model: the skeleton that holds what runs in this layer's window."""

    def __init__(self, model: nn.Module, window: Window) -> None:
        super().__init__()
        self.model, self._window = model, window

    def forward(self, value: Any) -> Any:
        """Map the model's input, or the boundary before, to the boundary after, or the model's output."""
        return self._window.run(self.model, value)

    def extra_repr(self) -> str:
        return ", ".join(self._window.calls[self._window.first : self._window.end])


def is_dropped(leaf: Any) -> bool:
    """Tell whether a leaf may stay behind at a boundary: real numbers do, of which there are many."""
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()


def _kept(tree: Any, is_kept: Callable[[int], bool]) -> Any:
    """Return the tree without the values of what is not kept."""
    if isinstance(tree, (Elsewhere, torch.Tensor)):  # most are; trees cost 20 us each
        return Elsewhere.of(tree) if is_dropped(tree) and not is_kept(0) else tree
    leaves, structure = pytree.tree_flatten(tree)
    kept = [
        Elsewhere.of(leaf) if is_dropped(leaf) and not is_kept(index) else leaf for index, leaf in enumerate(leaves)
    ]
    return pytree.tree_unflatten(kept, structure)


def _stood_in(tree: Any, device: torch.device) -> Any:
    if isinstance(tree, (Elsewhere, torch.Tensor)):
        return tree.stand_in(device) if isinstance(tree, Elsewhere) else tree
    return pytree.tree_map_only(Elsewhere, lambda leaf: leaf.stand_in(device), tree)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _unlike(calls: tuple[str, ...], number: int, did: str) -> str:
    expected = f"called {calls[number]}" if number < len(calls) else "ended"
    return (
        f"the model {did} where it {expected} on the batch it was extracted on, after {number} calls of its parts; "
        "which parts run must not depend on data or chance. Give a list of layers instead, or register an extractor."
    )
