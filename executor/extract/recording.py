"""Runs a model once and notes which of its pieces are called, and what each needs of what was there before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from executor.errors import ExtractionError
from executor.extract.pieces import Piece
from executor.extract.skeleton import Gate, Parts, skeleton
from executor.extract.window import Source, is_dropped

_CARRIED = (type(None), bool, int, float, complex, str, torch.dtype, torch.device, torch.Tensor)


@dataclass
class Recording:
    """What one run showed. calls: names of pieces in order. needs: of each call, and of the end after them.

    Sources are ("input", leaf), (call, leaf) and ("parameter", its id). inspected: pieces whose children
    the code between pieces looks at.
    """

    calls: list[str] = field(default_factory=list)
    needs: list[frozenset[Source]] = field(default_factory=list)
    inspected: set[str] = field(default_factory=set)

    def needed_from(self, call: int) -> frozenset[Source]:
        """Return what this call, later ones or the end need."""
        return frozenset().union(*self.needs[call:])

    def parameters(self, first: int, end: int) -> set[int]:
        """Return ids of the parameters that code between pieces uses for a window of calls."""
        last = end + 1 if end == len(self.calls) else end
        return {leaf for needs in self.needs[first:last] for kind, leaf in needs if kind == "parameter"}


class _Recorder(TorchDispatchMode):
    """Follows sources through the operators of the code between pieces, by the storages that they write.

    Everything it follows is kept alive, so that no storage takes the place of another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recording = Recording()
        self.device = torch.device("cpu")
        self._sources: defaultdict[int, frozenset[Source]] = defaultdict(frozenset)
        self._alive: list[torch.Tensor] = []
        self._inside = False

    def name(self, tensor: torch.Tensor, sources: Iterable[Source]) -> None:
        """Say what a tensor is."""
        self._alive.append(tensor)
        self._sources[_storage(tensor)] = frozenset(sources)

    def needs(self, tree: Any) -> frozenset[Source]:
        """Return the sources of all tensors in a tree."""
        tensors = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
        return frozenset().union(*(self._sources[_storage(tensor)] for tensor in tensors))

    def call(self, gate: Gate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = len(self.recording.calls)
        self.recording.calls.append(gate.name)
        self.recording.needs.append(self.needs((args, kwargs)))
        self._inside = True
        try:
            output = gate.run(args, kwargs)
        finally:
            self._inside = False
        self._name_output(gate.name, number, pytree.tree_leaves(output))
        return output

    def inspected(self, name: str) -> None:
        if not self._inside:
            self.recording.inspected.add(name)

    def _name_output(self, name: str, call: int, leaves: list[Any]) -> None:
        """Make a call's output the source of what it lies in, in place of what that was before."""
        sources: defaultdict[int, set[Source]] = defaultdict(set)
        for index, leaf in enumerate(leaves):
            if not isinstance(leaf, _CARRIED):
                raise ExtractionError(
                    f"{name} returns a {type(leaf).__name__}, which cannot be handed from layer to layer; "
                    "switch it off in the model's configuration (a cache, for instance)."
                )
            if is_dropped(leaf):
                sources[_storage(leaf)].add((call, index))
                self.name(leaf, sources[_storage(leaf)])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if self._inside:
            return output
        found = self.needs((args, kwargs))
        if func is torch.ops.aten._local_scalar_dense.default and any(kind != "input" for kind, _ in found):
            raise ExtractionError(
                "its forward decides by a value that its parts computed, which layers apart cannot follow. Give a "
                "list of layers, or register an extractor."
            )
        for leaf in pytree.tree_leaves(output) if found else ():
            if isinstance(leaf, torch.Tensor):
                self.name(leaf, found | self._sources[_storage(leaf)])
        return output


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def record(model: nn.Module, pieces: Collection[Piece], example_input: Any) -> Recording:
    """Run the model on an input.

    Raises:
        ExtractionError: it does what layers could not.
    """
    recorder = _Recorder()
    for parameter in model.parameters():
        recorder.name(parameter, [("parameter", id(parameter))])
    for index, leaf in enumerate(pytree.tree_leaves(example_input)):
        if is_dropped(leaf):
            recorder.name(leaf, [("input", index)])
    visible = [id(parameter) for parameter in model.parameters()]
    everything = Parts(pieces, [piece.name for piece in pieces], visible, inspected=None)
    with recorder:
        output = skeleton(model, everything, recorder)(example_input)
    recorder.recording.needs.append(recorder.needs(output))
    return recorder.recording
