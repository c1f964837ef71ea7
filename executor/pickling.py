"""Pickles modules without their weights, sees that they can be, and finds the tensors that travel with a value."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import cloudpickle
import torch
from torch import nn

from executor.errors import JobError
from hydrasim.errors import told

if TYPE_CHECKING:
    from executor.job import TorchJob


class WeightlessPickler(cloudpickle.Pickler):
    """Pickles by content, with numbers in place of the given parameters. met: those it came across."""

    def __init__(self, file: Any, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.met: set[int] = set()
        self._index = {id(parameter): i for i, parameter in enumerate(parameters)}

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, nn.Parameter) and id(obj) in self._index:
            self.met.add(id(obj))
            return self._index[id(obj)], obj.dtype, obj.requires_grad
        return None


def dump_without_weights(value: Any, parameters: list[nn.Parameter]) -> bytes:
    """Pickle a value by content, with empty parameters in place of the given ones."""
    buffer = io.BytesIO()
    WeightlessPickler(buffer, parameters).dump(value)
    return buffer.getvalue()


class _Describer(cloudpickle.Pickler):
    """Pickles by content, with its description in place of each tensor."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._index: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            index = self._index.setdefault(id(obj), len(self._index))
            return index, str(obj.dtype), tuple(obj.shape), obj.stride(), obj.requires_grad, type(obj).__name__
        return None


def describe(value: Any) -> bytes:
    """Return what is equal for values that differ in nothing but their tensors' elements."""
    seen = io.BytesIO()
    _Describer(seen).dump(value)
    return seen.getvalue()


class _TensorFinder(cloudpickle.Pickler):
    """Pickles by content to nowhere, and collects the tensors that it comes across."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), protocol=pickle.HIGHEST_PROTOCOL)
        self.found: dict[int, torch.Tensor] = {}

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            self.found[id(obj)] = obj
            return id(obj)
        return None


def tensors_in(*values: Any) -> list[torch.Tensor]:
    """Return every tensor that travels with these values: parameters, buffers, plain attributes, closures."""
    finder = _TensorFinder()
    finder.dump(values)
    return list(finder.found.values())


def load_without_weights(data: bytes) -> tuple[Any, list[nn.Parameter]]:
    """Read the value back; return it with its empty parameters, in the order they were given."""
    made: dict[int, nn.Parameter] = {}

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> nn.Parameter:
            number, dtype, requires_grad = pid
            if number not in made:
                made[number] = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=requires_grad)
            return made[number]

    value = Unpickler(io.BytesIO(data)).load()
    return value, [made[number] for number in sorted(made)]


def check_references(job: TorchJob) -> None:
    """Make sure that layers and loss can travel, and that none hides weights that another one updates.

    Raises:
        JobError: a part cannot be pickled, or refers to parameters of a layer elsewhere in the chain.
    """
    parts: list[tuple[str, Any, list[nn.Parameter]]] = [
        (f"layer {index}", layer, list(layer.parameters())) for index, layer in enumerate(job.layers)
    ]
    for name, part, own in [*parts, ("loss_fn", job.loss_fn, []), ("metric", job.metric_fn, [])]:
        pickler = WeightlessPickler(io.BytesIO(), job.module.parameters())
        try:
            pickler.dump(part)
        except Exception as reason:
            raise JobError(f"job {job.name!r}: {name} cannot be sent to a worker process: {told(reason)}") from reason
        if pickler.met - {id(parameter) for parameter in own}:
            raise JobError(
                f"job {job.name!r}: {name} refers to parameters of the model that are not its own; on a device it "
                "would find their bytes gone. Put what uses them into their layer, or use weight_decay."
            )
