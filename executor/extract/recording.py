"""Runs a model once and notes which of its pieces are called, and what each needs of what was there before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from executor import randomness
from executor.errors import ExtractionError
from executor.extract.pieces import Piece
from executor.extract.skeleton import Gate, Parts, skeleton
from executor.extract.window import Source, is_dropped

_NUM_MORE = 4  # runs, from random states that follow on each other
_CARRIED = (type(None), bool, int, float, complex, str, torch.dtype, torch.device, torch.Tensor)


@dataclass
class Recording:
    """What one run showed. calls: names of pieces in order. needs: of each call, and of the end after them.

    Sources are ("input", leaf), (call, leaf) and ("parameter", its id). inspected: pieces whose children
    the code between pieces looks at. spans: first and last call that need one and the same thing that this
    code computes with gradient. Layers that both compute it would add up its gradient in another order.
    draws: whether this code draws random numbers.
    """

    calls: list[str] = field(default_factory=list)
    needs: list[frozenset[Source]] = field(default_factory=list)
    inspected: set[str] = field(default_factory=set)
    spans: list[tuple[int, int]] = field(default_factory=list)
    draws: bool = False

    def needed_from(self, call: int) -> frozenset[Source]:
        """Return what this call, later ones or the end need."""
        return frozenset().union(*self.needs[call:])

    def parameters(self, first: int, end: int) -> set[int]:
        """Return ids of the parameters that code between pieces uses for a window of calls."""
        last = end + 1 if end == len(self.calls) else end
        return {leaf for needs in self.needs[first:last] for kind, leaf in needs if kind == "parameter"}


class _Recorder(TorchDispatchMode):
    """Follows sources through the operators of the code between pieces, by views of storages.

    Everything it follows is kept alive, so that no storage takes the place of another.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recording = Recording()
        self.device = torch.device("cpu")
        self._sources: defaultdict[int, dict[_View, frozenset[Source]]] = defaultdict(dict)
        self._alive: list[torch.Tensor] = []
        self._inside = False
        self._decisive: frozenset[Source] = frozenset()
        self._differentiable: set[Source] = set()
        self._num_computed = 0
        self._random = randomness.save()

    def name(self, tensor: torch.Tensor, sources: Iterable[Source]) -> None:
        """Say what a tensor is."""
        self._alive.append(tensor)
        self._sources[_storage(tensor)][_view(tensor)] = frozenset(sources)
        if tensor.requires_grad:
            self._differentiable.update(sources)

    def needs(self, tree: Any) -> frozenset[Source]:
        """Return the sources of all tensors in a tree."""
        tensors = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
        return frozenset().union(*map(self._sources_of, tensors))

    def _sources_of(self, tensor: torch.Tensor) -> frozenset[Source]:
        views = self._sources.get(_storage(tensor), {})
        found = views.get(_view(tensor))
        return frozenset().union(*views.values()) if found is None else found

    def call(self, gate: Gate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = len(self.recording.calls)
        self.recording.calls.append(gate.name)
        self.recording.needs.append(self.needs((args, kwargs)))
        self.recording.draws |= randomness.save() != self._random
        self._inside = True
        try:
            output = gate.run(args, kwargs)
        finally:
            self._inside = False
        self._random = randomness.save()
        self._name_output(gate.name, number, pytree.tree_leaves(output))
        return output

    def inspected(self, name: str) -> None:
        if not self._inside:
            self.recording.inspected.add(name)

    def _name_output(self, name: str, call: int, leaves: list[Any]) -> None:
        """Make a call's output the source of what it lies in, in place of what that was before."""
        sources: defaultdict[_View, set[Source]] = defaultdict(set)
        for index, leaf in enumerate(leaves):
            if not isinstance(leaf, _CARRIED):
                raise ExtractionError(
                    f"{name} returns a {type(leaf).__name__}, which cannot be handed from layer to layer; "
                    "switch it off in the model's configuration (a cache, for instance)."
                )
            if is_dropped(leaf):
                sources[_view(leaf)].add((call, index))
                self.name(leaf, sources[_view(leaf)])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if self._inside:
            return output
        found = self.needs((args, kwargs))
        if func is torch.ops.aten._local_scalar_dense.default:
            self._decide(found)
        if found & self._differentiable:
            self._num_computed += 1
            found |= {("computed", self._num_computed)}
            self._differentiable.add(("computed", self._num_computed))
        for leaf in pytree.tree_leaves(output) if found else ():
            if isinstance(leaf, torch.Tensor):
                self._computed(leaf, found, func._schema.is_mutable)
        return output

    def _computed(self, tensor: torch.Tensor, sources: frozenset[Source], is_written: bool) -> None:
        """Take note of an operator's result; what is written into changes under all of its views."""
        views = self._sources[_storage(tensor)]
        if is_written:
            for view in views:
                views[view] |= sources
        if is_written or _view(tensor) not in views:  # else it is an alias of what is known
            self.name(tensor, sources)

    def _decide(self, sources: frozenset[Source]) -> None:
        """Take note that Python code saw a number."""
        if any(kind != "input" for kind, _ in sources):
            raise ExtractionError(
                "its forward decides by a value that its parts computed, which layers apart cannot follow. Give a "
                "list of layers, or register an extractor."
            )
        self._decisive |= sources

    def ended(self, output: Any) -> Recording:
        """Return the recording. What was decided by, every layer needs, since all decide anew."""
        needs = [*self.recording.needs, self.needs(output)]
        sources = [frozenset(s for s in each if s[0] != "computed") | self._decisive for each in needs]
        return replace(self.recording, needs=sources, spans=_spans(needs))


def _spans(needs: Sequence[frozenset[Source]]) -> list[tuple[int, int]]:
    users: defaultdict[Source, list[int]] = defaultdict(list)
    for call, each in enumerate(needs):
        for source in each:
            if source[0] == "computed":
                users[source].append(call)
    return sorted({(calls[0], calls[-1]) for calls in users.values() if len(calls) > 1})


_View = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _view(tensor: torch.Tensor) -> _View:
    return _storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def record(model: nn.Module, pieces: Collection[Piece], example_input: Any) -> Recording:
    """Run the model on an input, and more often if its containers' code draws random numbers.

    Raises:
        ExtractionError: it does what layers could not.
    """
    recording = _record(model, pieces, example_input)
    for _ in range(_NUM_MORE if recording.draws else 0):
        if _record(model, pieces, example_input).calls != recording.calls:
            raise ExtractionError(
                "which of its parts run depends on chance (layerdrop, perhaps); switch that off, give a list of "
                "layers, or register an extractor."
            )
    return recording


def _record(model: nn.Module, pieces: Collection[Piece], example_input: Any) -> Recording:
    recorder = _Recorder()
    for parameter in model.parameters():
        recorder.name(parameter, [("parameter", id(parameter))])
    for index, leaf in enumerate(pytree.tree_leaves(example_input)):
        if is_dropped(leaf):
            recorder.name(leaf, [("input", index)])
    visible = [id(parameter) for parameter in model.parameters()]
    everything = Parts(pieces, [piece.name for piece in pieces], visible, inspected=None)
    with recorder:
        copied, _ = skeleton(model, everything, recorder)
        output = copied(example_input)
    return recorder.ended(output)
