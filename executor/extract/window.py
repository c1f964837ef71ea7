"""One layer of an extracted chain: the model's own forward, of which only a window of calls really runs.

The layer runs the model's forward code from its beginning. Calls of pieces before the window are answered
with what they returned in earlier layers, as far as later ones need it; those in the window run; after the
last of them the forward is abandoned, and what later layers need becomes the boundary:

    forward code     embed(ids) ... block0(h, mask) ... block1(h, mask) ... head(h)
    layer 1 of 3     answered       answered            runs, stops         -
    boundary                        h of block0         h of block1
"""

from __future__ import annotations

from collections.abc import Sequence
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
    writable: for models whose code writes into what its pieces returned: stand-ins have memory, and what goes
    into boundaries are copies, since later layers' passes write again.
    """

    def __init__(self, calls: tuple[str, ...], first: int, end: int, kept: frozenset[Source], writable: bool) -> None:
        self.calls, self.first, self.end, self.kept, self._writable = calls, first, end, kept, writable
        self.device = torch.device("cpu")
        self._last = self
        self._gates: dict[str, Gate] = {}
        self._answers: list[Any] = []
        self._made: list[Any] = []
        self._count = 0
        self._random = b""

    def run(self, model: nn.Module, value: Any, following: Sequence[ExtractedLayer] = ()) -> Any:
        """Run the model's forward for this window on a boundary; return the next one, or at last the output.

        following: layers whose windows come next, run in the same pass.
        """
        inputs, answers = (value, ()) if self.first == 0 else value
        self.device = next((leaf.device for leaf in _tensors(value)), self.device)
        self._answers, self._count = list(answers), 0
        self._gates = {name: gate for layer in following for name, gate in layer.gates.items()}
        self._last = following[-1].window if following else self
        self._random = randomness.save(self._generator()) if self.first else b""
        try:
            output = model(self._stood_in(inputs))
            if self._count < self._last.end or not self._last.is_at_end:
                raise RuntimeError(_unlike(self.calls, self._count, "ended"))
            return output
        except _Reached:
            before = [self._kept(tree, call) for call, tree in enumerate(answers)]
            return self._kept(inputs, "input"), (*before, *self._made)
        finally:
            self._answers, self._made, self._gates, self._last = [], [], {}, self

    @property
    def is_at_end(self) -> bool:
        """Whether this is the last layer's."""
        return self.end == len(self.calls)

    def call(self, gate: Gate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = self._count
        self._count += 1
        if number >= len(self.calls) or self.calls[number] != gate.name:
            raise RuntimeError(_unlike(self.calls, number, f"called {gate.name}"))
        if number < self.first:
            if number == self.first - 1:  # what the code before drew, it has drawn before
                randomness.restore(self._random, self._generator())
            return self._stood_in(self._answers[number])
        output = (gate if number < self.end else self._gates[gate.name]).run(args, kwargs)
        self._made.append(self._kept(output, number))
        if number == self._last.end - 1 and not self._last.is_at_end:
            raise _Reached
        return output

    def inspected(self, name: str) -> None:
        """Nothing to note."""

    def _kept(self, tree: Any, source: str | int) -> Any:
        """Return the tree without the values of what nothing after the pass needs."""
        kept = self._last.kept
        if isinstance(tree, Elsewhere):
            return tree
        leaves, structure = ([tree], None) if isinstance(tree, torch.Tensor) else pytree.tree_flatten(tree)
        for index, leaf in enumerate(leaves):
            if is_dropped(leaf):
                leaves[index] = self._own(leaf) if (source, index) in kept else Elsewhere.of(leaf)
        return leaves[0] if structure is None else pytree.tree_unflatten(leaves, structure)

    def _stood_in(self, tree: Any) -> Any:
        """Return the tree for the model's code, with stand-ins for what is elsewhere."""
        if isinstance(tree, (Elsewhere, torch.Tensor)):  # most are; trees cost 20 us each
            return self._entered(tree)
        return pytree.tree_map_only((Elsewhere, torch.Tensor), self._entered, tree)

    def _entered(self, leaf: Elsewhere | torch.Tensor) -> torch.Tensor:
        return self._own(leaf.stand_in(self.device) if isinstance(leaf, Elsewhere) else leaf)

    def _own(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone(memory_format=torch.contiguous_format) if self._writable else tensor

    def _generator(self) -> torch.Generator | None:
        return torch.cuda.default_generators[self.device.index or 0] if self.device.type == "cuda" else None


class ExtractedLayer(nn.Module):
    """A layer of an extracted chain. model: the skeleton that holds what runs in this layer's window.

    gates: to the pieces that are here. can_follow: whether it needs nothing of the skeleton but those, so
    that the layer before can run them, too.
    """

    def __init__(self, model: nn.Module, gates: dict[str, Gate], window: Window, can_follow: bool) -> None:
        super().__init__()
        self.model, self.gates, self.window, self.can_follow = model, gates, window, can_follow

    def forward(self, value: Any) -> Any:
        """Map the model's input, or the boundary before, to the boundary after, or the model's output."""
        return self.window.run(self.model, value)

    def run_with(self, following: Sequence[nn.Module], value: Any) -> tuple[Any, int]:
        """Run as many of the following layers in the same pass as can be; return the boundary and their number.

        One pass runs the model's own code once, not once a layer.
        """
        taken: list[ExtractedLayer] = []
        end = self.window.end
        for layer in following:
            if not (isinstance(layer, ExtractedLayer) and layer.can_follow and layer.window.first == end):
                break
            taken.append(layer)
            end = layer.window.end
        return self.window.run(self.model, value, taken), len(taken)

    def extra_repr(self) -> str:
        return ", ".join(self.window.calls[self.window.first : self.window.end])


def is_dropped(leaf: Any) -> bool:
    """Tell whether a leaf may stay behind at a boundary: real numbers do, of which there are many."""
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _unlike(calls: tuple[str, ...], number: int, did: str) -> str:
    expected = f"called {calls[number]}" if number < len(calls) else "ended"
    return (
        f"the model {did} where it {expected} on the batch it was extracted on, after {number} calls of its parts; "
        "which parts run must not depend on data or chance. Give a list of layers instead, or register an extractor."
    )
