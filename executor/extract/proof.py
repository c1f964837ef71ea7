"""Proves on one batch that a chain of layers computes what the model does: outputs, gradients, buffers, randomness.

The chain is run as the executor would at its worst, every layer a shard of its own with packed boundaries
and recomputation; and once as a single shard. Gradients are compared by digests and freed as they are made.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cloudpickle
import torch
from torch import nn
from torch.utils import _pytree as pytree

from executor import randomness
from executor.compare_state import raw_bytes
from executor.compute import Loss, backward, forward, loss_and_backward, needs_grad, run_layers
from executor.errors import ExtractionError
from executor.evaluation import evaluating
from executor.tensors import packed
from hydrasim.errors import told

_OURS = set(vars(nn.Module())) - {"training"}


@dataclass(frozen=True)
class Run:
    """What one forward and backward left, as digests by name."""

    outputs: dict[str, bytes]
    gradients: dict[str, bytes]
    buffers: dict[str, bytes]
    randomness: bytes

    def differences(self, other: Run) -> list[str]:
        """Name what differs, in this order: outputs, buffers, the random state, gradients."""
        named = [
            f"{kind} {name}"
            for kind in ("outputs", "buffers", "gradients")
            for name in dict.fromkeys([*getattr(self, kind), *getattr(other, kind)])
            if getattr(self, kind).get(name) != getattr(other, kind).get(name)
        ]
        return named + (["the random state afterwards"] if self.randomness != other.randomness else [])


Steps = Callable[[Any, Any, Loss, Callable[[], None]], None]  # inputs, target, loss_fn, after_forward


class Proof:
    """Runs a model on one batch, to compare chains with it.

    The model, its gradients, buffers and attributes, and the random state stay as they were.

    Raises:
        ExtractionError: two runs of the model from the same random state differ, or even the second changes
            attributes of modules (the first may fill caches).
    """

    def __init__(self, model: nn.Module, inputs: Any, target: Any, loss_fn: Loss | None) -> None:
        self._model, self._loss_fn = model, loss_fn or _any_loss
        self._inputs, self._target = packed(inputs), packed(target)
        self._random = randomness.save()
        with self._untouched():
            self._plain = self._run(self._plainly)
            once = attributes_of(model)
            again = self._run(self._forward_only)
            twice = attributes_of(model)
        different = replace(self._plain, gradients={}).differences(again)
        if different:
            raise ExtractionError(
                f"two runs of the model from the same random state differ in {_some(different)}; make it "
                "deterministic, drawing from torch's, numpy's or random's global generators only."
            )
        changed = [name for name in once if once[name] != twice.get(name)]
        if changed:
            raise ExtractionError(
                f"the forward changes {_some(changed)}; layers run several times and in several processes, so keep "
                "such state outside of the model, or in the batch."
            )

    def check(self, layers: Sequence[nn.Module]) -> None:
        """Compare a chain with the model.

        Raises:
            ExtractionError: something differs.
        """
        seen: set[int] = set()
        shared = {id(p) for layer in layers for p in set(layer.parameters()) if id(p) in seen or seen.add(id(p))}
        with self._untouched():
            for how, steps in {"run as one shard": at_once, "run layer by layer": each_a_shard}.items():
                found = self._plain.differences(self._run(partial(steps, layers), shared))
                if found:
                    raise ExtractionError(
                        f"the chain of {len(layers)} layers, {how}, differs from the model in {_some(found)}. Give a "
                        "list of layers instead, or register an extractor for this class."
                    )

    def _plainly(self, inputs: Any, target: Any, loss_fn: Loss, after_forward: Callable[[], None]) -> None:
        loss = loss_fn(self._model(inputs), target)
        after_forward()
        loss.backward()

    def _forward_only(self, inputs: Any, target: Any, loss_fn: Loss, after_forward: Callable[[], None]) -> None:
        loss_fn(self._model(inputs), target)
        after_forward()

    def _run(self, steps: Steps, shared: Collection[int] = ()) -> Run:
        """Run from the first random state. shared: parameters that get gradients in several backward passes."""
        outputs: dict[str, bytes] = {}
        gradients: dict[str, bytes] = {}
        after: dict[str, Any] = {}

        def loss_fn(output: Any, target: Any) -> torch.Tensor:
            outputs.update(digests(output))
            return self._loss_fn(output, target)

        def after_forward() -> None:
            after.update(buffers=digests(dict(self._model.named_buffers())), randomness=randomness.save())

        randomness.restore(self._random)
        with buffers_restored(self._model), _digested_gradients(self._model, gradients, shared), torch.enable_grad():
            steps(packed(self._inputs), packed(self._target), loss_fn, after_forward)
        return Run(outputs, gradients, **after)

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        before = randomness.save()
        try:
            with attributes_restored(self._model):
                yield
        finally:
            randomness.restore(before)


def check_evaluation(model: nn.Module, layers: Sequence[nn.Module], inputs: Any) -> None:
    """Compare what a model and a chain return in evaluation mode, without gradients; the random state stays.

    Raises:
        ExtractionError: something differs, or one of them fails.
    """
    before, found = randomness.save(), []
    try:
        for run in (model, partial(run_layers, layers), partial(_one_by_one, layers)):
            randomness.restore(before)
            with attributes_restored(model), buffers_restored(model), evaluating([model, *layers]):
                output = digests(run(packed(inputs)))
                found.append((output, randomness.save()))
    except Exception as reason:
        raise ExtractionError(f"{type(model).__name__} fails in evaluation mode: {told(reason)}") from reason
    finally:
        randomness.restore(before)
    if found[0] != found[1] or found[0] != found[2]:
        raise ExtractionError(
            f"{type(model).__name__}: the chain of {len(layers)} layers differs from it in evaluation mode. Give a "
            "list of layers instead, register an extractor for this class, or leave evaluate_on out."
        )


def _one_by_one(layers: Sequence[nn.Module], value: Any) -> Any:
    for layer in layers:
        value = packed(run_layers([layer], value))
    return value


def at_once(
    layers: Sequence[nn.Module], inputs: Any, target: Any, loss_fn: Loss, after_forward: Callable[[], None]
) -> None:
    """Run the chain as a single shard."""
    loss_and_backward(layers, inputs, _flags(inputs), target, loss_fn, after_forward)


def each_a_shard(
    layers: Sequence[nn.Module], inputs: Any, target: Any, loss_fn: Loss, after_forward: Callable[[], None]
) -> None:
    """Run every layer as a shard of its own: forward, boundary, later recomputed for its backward."""
    values, states = [inputs], []
    for layer in layers[:-1]:
        states.append(randomness.save())
        values.append(packed(forward([layer], values[-1], _flags(values[-1]))))
    value = values.pop()
    _, gradients = loss_and_backward(layers[-1:], value, _flags(value), target, loss_fn, after_forward)
    for layer in reversed(layers[:-1]):
        value = values.pop()
        randomness.restore(states.pop())
        gradients = backward([layer], value, _flags(value), packed(gradients))


def _flags(value: Any) -> list[bool]:
    return [needs_grad(leaf) for leaf in pytree.tree_leaves(value)]


def _any_loss(output: Any, _: Any) -> torch.Tensor:
    leaves = [leaf for leaf in pytree.tree_leaves(output) if needs_grad(leaf)]
    if not leaves:
        raise ExtractionError("nothing that it returns has a gradient, so there is nothing to train.")
    return torch.stack([leaf.double().square().mean() for leaf in leaves]).sum()


@contextmanager
def _digested_gradients(model: nn.Module, into: dict[str, bytes], shared: Collection[int]) -> Iterator[None]:
    """Digest each parameter's gradient when it has been accumulated, and free it unless more is to come."""

    def keep(name: str, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        into[name] = digest(parameter.grad)
        if id(parameter) not in shared:
            parameter.grad = None

    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: parameter.grad for name, parameter in parameters.items()}
    handles = []
    for name, parameter in parameters.items():
        parameter.grad = None
        handles.append(parameter.register_post_accumulate_grad_hook(lambda p, name=name: keep(name, p)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name, parameter in parameters.items():
            parameter.grad = before[name]


@contextmanager
def attributes_restored(model: nn.Module) -> Iterator[None]:
    """Put the modules' attributes and hooks back afterwards."""
    before = [(module, dict(vars(module)), _hooks(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, hooks in before:
            vars(module).clear()
            vars(module).update(attributes)
            for name, items in hooks.items():
                attributes[name].clear()
                attributes[name].update(items)


@contextmanager
def buffers_restored(model: nn.Module) -> Iterator[None]:
    """Put the buffers and their values back afterwards."""
    before = [(module, dict(module._buffers)) for module in model.modules()]
    values = {id(buffer): buffer.clone() for buffer in model.buffers()}
    try:
        yield
    finally:
        for module, buffers in before:
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for buffer in model.buffers():
                buffer.copy_(values[id(buffer)])


def _hooks(module: nn.Module) -> dict[str, dict[Any, Any]]:
    return {name: dict(value) for name, value in vars(module).items() if "_hooks" in name and isinstance(value, dict)}


def attributes_of(model: nn.Module) -> dict[str, bytes]:
    """Digest what modules hold beside parameters, buffers, modules and hooks."""
    return {
        f"{name or type(model).__name__}.{key}": _digest_of_any(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in _OURS
    }


class _Digester(cloudpickle.Pickler):
    """Pickles tensors by their bytes, modules by their place."""

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            return digest(obj)
        return id(obj) if isinstance(obj, nn.Module) else None


def _digest_of_any(value: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        _Digester(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    except Exception:
        return str(id(value)).encode()
    return hashlib.blake2b(buffer.getvalue()).digest()


def digests(tree: Any) -> dict[str, bytes]:
    """Digest a tree's tensors, named by where they are."""
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return {pytree.keystr(path): digest(leaf) for path, leaf in leaves if isinstance(leaf, torch.Tensor)}


def digest(tensor: torch.Tensor) -> bytes:
    """Digest dtype, shape and bytes."""
    head = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    return hashlib.blake2b(raw_bytes(tensor).numpy(), key=hashlib.blake2b(head, digest_size=32).digest()).digest()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
