"""Weights in safetensors files: read a tensor at a time, so that a model need not lie in memory beside its copy.

with without_weights():  # parameters take no memory; buffers are as always
    model = AutoModelForCausalLM.from_config(config)
job = TorchJob("large", model, loss_fn, loader, optimizer, weights=Path("checkpoint"), save_to=Path("trained"))
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from executor.errors import JobError
from hydrasim.disk import make_folder, read_text, replacing, write_text

_MODEL = "model"  # as Hugging Face names it
_WHOLE = f"{_MODEL}.safetensors"
_SOME = 3  # names told of


def index_of(what: str) -> str:
    """Return the name of the file that says in which file each tensor lies, as Hugging Face names it."""
    return f"{what}.safetensors.index.json"


INDEX = index_of(_MODEL)


@contextmanager
def without_weights() -> Iterator[None]:
    """Have modules that are made meanwhile hold parameters without memory, to be read from a checkpoint."""
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and not parameter.is_meta:  # one that is has been here before, and may be shared
            module._parameters[name] = nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@dataclass(frozen=True)
class Weights:
    """The tensors of a safetensors file, of a sharded checkpoint by its index, or of a folder that holds either."""

    path: Path

    @cached_property
    def files(self) -> dict[str, Path]:
        """Where each tensor lies, by name.

        Raises:
            JobError: there is no such checkpoint, or it is none.
        """
        path = self.path
        if path.is_dir():
            path = next((path / name for name in (INDEX, _WHOLE) if (path / name).exists()), path / INDEX)
        if path.suffix != ".json":
            with _opened(path) as file:
                return dict.fromkeys(file.keys(), path)
        try:
            index = json.loads(read_text(path, JobError))["weight_map"]
            names = {str(name): Path(str(file)) for name, file in index.items()}
        except (ValueError, LookupError, TypeError, AttributeError) as reason:
            raise JobError(f"{path} is no index of a sharded checkpoint: {type(reason).__name__}: {reason}.") from None
        for file in names.values():
            if file.name != str(file):
                raise JobError(f"{path} names {file}, which is not in its folder.")
        return {name: path.parent / file for name, file in names.items()}

    def check(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Make sure that every parameter is there, in its shape and type, without reading any.

        Raises:
            JobError: one is not.
        """
        missing = [name for name in parameters if name not in self.files]
        if missing:
            raise JobError(f"{self.path} lacks {_told(missing)} of the model; it has {_told(list(self.files))}.")
        for path in dict.fromkeys(self.files[name] for name in parameters):
            with _opened(path) as file:
                for name in (name for name in parameters if self.files[name] == path):
                    _check_like(file, name, parameters[name], path)

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor; its file is closed again, so that no pages of others stay."""
        with _opened(self.files[name]) as file:
            found: torch.Tensor = file.get_tensor(name)
        return found

    def fill(self, holders: Sequence[nn.Module], names: Mapping[int, str]) -> dict[int, nn.Parameter]:
        """Put parameters with their values in place of those without memory, in modules and all that they hold.

        names: by the identity of a parameter. Returns what was there, by the identity of what is there now.
        """
        made, before = dict[int, nn.Parameter](), dict[int, nn.Parameter]()
        for module, key, parameter in _held(holders):
            if parameter.is_meta and id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(self.read(names[id(parameter)]).clone(), parameter.requires_grad)
                before[id(made[id(parameter)])] = parameter
            module._parameters[key] = made.get(id(parameter), parameter)
        return before

    @contextmanager
    def filled(self, holders: Sequence[nn.Module], names: Mapping[int, str]) -> Iterator[None]:
        """Have modules hold parameters with values for as long as it takes.

        holders: afterwards, those that are in it by then hold those without memory again.
        """
        before = self.fill(holders, names)
        try:
            yield
        finally:
            for module, key, parameter in _held(holders):
                module._parameters[key] = before.get(id(parameter), parameter)


class Saved:
    """A sharded checkpoint that is being written, a file a shard; the index comes last. what: its files' names.

    Raises:
        HydraError: it cannot be written.
    """

    def __init__(self, folder: Path, num_files: int, what: str = _MODEL) -> None:
        make_folder(folder)
        self._folder, self._num_files, self._what = folder, num_files, what
        self._map: dict[str, str] = {}
        self._num_added = self._num_bytes = 0

    def add(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write the next file; of tensors that were in an earlier one, nothing."""
        self._num_added += 1
        name = f"{self._what}-{self._num_added:05}-of-{self._num_files:05}.safetensors"
        new = {key: tensor for key, tensor in tensors.items() if key not in self._map}
        if not new:
            return
        with replacing(self._folder / name) as path:
            save_file(new, path, metadata={"format": "pt"})
        self._map.update(dict.fromkeys(new, name))
        self._num_bytes += sum(tensor.nbytes for tensor in new.values())

    def close(self) -> None:
        """Write the index, by which it is found."""
        index = {"metadata": {"total_size": self._num_bytes}, "weight_map": self._map}
        write_text(self._folder / index_of(self._what), json.dumps(index, indent=1) + "\n")


def _check_like(file: safe_open, name: str, parameter: nn.Parameter, path: Path) -> None:
    found = file.get_slice(name)
    shape, dtype = tuple(found.get_shape()), found.get_dtype()
    wanted = _DTYPES.get(parameter.dtype)
    if (shape, dtype) != (tuple(parameter.shape), wanted):
        raise JobError(f"{path}: {name} is {dtype} of {shape}; the model has {wanted} of {tuple(parameter.shape)}.")


def _held(holders: Sequence[nn.Module]) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Return all modules with the names and the parameters that they hold themselves."""
    modules = {id(module): module for holder in holders for module in holder.modules()}
    found = [(module, key, parameter) for module in modules.values() for key, parameter in module._parameters.items()]
    return [(module, key, parameter) for module, key, parameter in found if parameter is not None]


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as reason:
        raise JobError(f"cannot read {path}: {reason}.") from None


def _told(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
    return ", ".join(names[:_SOME]) + more


_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
