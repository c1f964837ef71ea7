"""Copies a model's structure without its weights: containers run, pieces ask a director what to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, Protocol

import torch
from torch import nn

from executor.extract.pieces import Piece

_SHARED = ("_parameters", "_buffers", "_modules")


class Director(Protocol):
    """Decides about every call of a piece. device: where stand-ins for absent tensors shall lie."""

    device: torch.device

    def call(self, gate: Gate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a call of the gate's piece; `gate.run` runs it."""
        ...

    def inspected(self, name: str) -> None:
        """Take note that somebody reads a child of a piece."""
        ...


@dataclass(frozen=True)
class Elsewhere:
    """A tensor that is not here because nothing here needs its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Elsewhere:
        return cls(tuple(tensor.shape), tensor.dtype)

    def stand_in(self, device: torch.device) -> torch.Tensor:
        """Return NaN of the shape, without memory: whoever computes with it after all spoils the result."""
        value = float("nan") if self.dtype.is_floating_point or self.dtype.is_complex else 0
        return torch.full((), value, dtype=self.dtype, device=device).expand(self.shape)


class Gate:
    """Takes the place of a piece's forward. module: the piece's shell. forward: one that is not its class's."""

    def __init__(self, name: str, module: nn.Module, forward: Any, director: Director) -> None:
        self.name = name
        self._module, self._forward, self._director = module, forward, director

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._director.call(self, args, kwargs)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the real forward."""
        if self._forward is not None:
            return self._forward(*args, **kwargs)
        return type(self._module).forward(self._module, *args, **kwargs)


class _Tensors(dict):
    """A module's parameters or buffers by name, of which some are elsewhere: those read as stand-ins."""

    def __init__(self, here: dict[str, Any], elsewhere: dict[str, Elsewhere], director: Director) -> None:
        super().__init__(here)
        self._elsewhere, self._director = elsewhere, director

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._elsewhere

    def __getitem__(self, name: str) -> Any:
        if super().__contains__(name):
            return super().__getitem__(name)
        return self._elsewhere[name].stand_in(self._director.device)


class _Parameters:
    """Answers a container's `parameters()`: of those elsewhere one, so that it still has a dtype and a device."""

    def __init__(self, module: nn.Module, first: Elsewhere, director: Director) -> None:
        self._module, self._first, self._director = module, first, director

    def __call__(self, recurse: bool = True) -> Iterator[Any]:
        real = list(type(self._module).parameters(self._module, recurse))
        return iter(real or [self._first.stand_in(self._director.device)])


class _Watched(dict):
    """A piece's children by name. Tells when one is read."""

    def __init__(self, children: dict[str, Any], on_read: Callable[[], None]) -> None:
        super().__init__(children)
        self._on_read = on_read

    def __getitem__(self, name: str) -> Any:
        self._on_read()
        return super().__getitem__(name)


@dataclass(frozen=True)
class Parts:
    """What of a model a skeleton has. whole: names of the pieces that are here with all they have.

    visible: ids of the parameters that containers' code uses and that are therefore here, whosever they are.
    inspected: names of the pieces whose children containers' code looks at; None to find that out.
    """

    pieces: Collection[Piece]
    whole: Collection[str]
    visible: Collection[int]
    inspected: Collection[str] | None


class _Builder:
    """Makes the shells of one skeleton."""

    def __init__(self, parts: Parts, director: Director) -> None:
        self._pieces = {id(piece.module): piece for piece in parts.pieces}
        self._parts, self._director = parts, director
        self._made: dict[int, nn.Module] = {}
        self.gates: dict[str, Gate] = {}

    def shell(self, module: nn.Module, absent: bool = False) -> nn.Module:
        """Return the module's shell: of its class, with its attributes, sharing what it has here."""
        if id(module) in self._made:
            return self._made[id(module)]
        made = self._made[id(module)] = type(module).__new__(type(module))
        piece = self._pieces.get(id(module))
        forward = None
        if piece is not None and piece.name in self._parts.whole:
            made.__dict__.update(vars(module))
            forward = vars(module).get("forward")
            if self._parts.inspected is None:
                read = partial(self._director.inspected, piece.name)
                made.__dict__["_modules"] = _Watched(module._modules, read)
        else:
            self._fill(made, module, absent or piece is not None, piece)
        if piece is not None:
            gate = Gate(piece.name, made, forward, self._director)
            made.__dict__["forward"] = self.gates[piece.name] = gate
        for name, value in list(vars(made).items()):
            if "_hooks" in name and isinstance(value, dict):  # a hook put on the copy stays there
                made.__dict__[name] = value.copy()
        return made

    def _fill(self, made: nn.Module, module: nn.Module, absent: bool, piece: Piece | None) -> None:
        """Give a shell what the module has, as far as it is here."""
        made.__dict__.update(self._attributes(module, absent))
        made.__dict__["_parameters"] = self._tensors(module._parameters)
        made.__dict__["_buffers"] = self._tensors(module._buffers) if absent else module._buffers
        hidden = piece is not None and piece.name not in (self._parts.inspected or ())
        made.__dict__["_modules"] = {
            name: child if child is None else self.shell(child, absent)
            for name, child in module._modules.items()
            if not hidden
        }
        first = next((parameter for parameter in module.parameters() if parameter.is_floating_point()), None)
        if first is not None and not absent:
            made.__dict__["parameters"] = _Parameters(made, Elsewhere.of(first), self._director)

    def _tensors(self, tensors: dict[str, Any]) -> _Tensors:
        here = {name: tensor for name, tensor in tensors.items() if tensor is None or id(tensor) in self._parts.visible}
        elsewhere = {name: Elsewhere.of(tensor) for name, tensor in tensors.items() if name not in here}
        return _Tensors(here, elsewhere, self._director)

    def _attributes(self, module: nn.Module, absent: bool) -> dict[str, Any]:
        """Return its other attributes, modules among them replaced by their shells; no tensors if it is absent."""
        attributes = {name: value for name, value in vars(module).items() if name not in _SHARED}
        return {
            name: self._mapped(value)
            for name, value in attributes.items()
            if not (absent and any(isinstance(part, torch.Tensor) for part in _parts(value)))
        }

    def _mapped(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return self._made.get(id(value)) or self.shell(value)
        if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
            return MethodType(value.__func__, self._mapped(value.__self__))
        if not any(isinstance(part, (nn.Module, MethodType)) for part in _parts(value)):
            return value
        if isinstance(value, dict):
            return type(value)((key, self._mapped(item)) for key, item in value.items())
        return type(value)(self._mapped(item) for item in value)


def _parts(value: Any) -> Iterator[Any]:
    """Return a value and what plain lists, tuples and dicts in it hold."""
    yield value
    if type(value) in (list, tuple) or isinstance(value, dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _parts(item)


def skeleton(model: nn.Module, parts: Parts, director: Director) -> tuple[nn.Module, dict[str, Gate]]:
    """Return a copy of the model's structure whose pieces ask the director, and the gates of those that are here."""
    builder = _Builder(parts, director)
    shell = builder.shell(model)
    return shell, {name: gate for name, gate in builder.gates.items() if name in parts.whole}
