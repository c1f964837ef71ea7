"""One shard unit on real tensors: forward, loss and backward, or backward with recomputation.

Units run in grad mode even when nothing is kept, because operators may choose other kernels without it;
a forward unit drops what autograd would save instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils import _pytree as pytree

from executor.step import StepOptions

if TYPE_CHECKING:
    from executor.host_store import StoreView
    from executor.layout import ShardOnDevice
    from executor.messages import JobSetup

Loss = Callable[[Any, Any], torch.Tensor]
Seeds = Sequence[tuple[nn.Parameter, torch.Tensor]]
PLAIN = StepOptions()


class _Entry(torch.autograd.Function):
    """A private copy of a boundary tensor that catches its gradient with the strides it arrived in.

    A copy, because a first layer that works in place must not touch the boundary; caught here and not
    in `.grad`, because accumulation there would change the strides that the layer before is fed.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, sink: dict[int, torch.Tensor], index: int) -> torch.Tensor:
        ctx.sink, ctx.index = sink, index
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None, None]:  # type: ignore[override]
        ctx.sink[ctx.index] = gradient
        return None, None, None


class Boundary:
    """A shard's input, entered into autograd. gradients(): what its tensors got, None where nothing."""

    def __init__(self, tree: Any, requires_grad: Sequence[bool]) -> None:
        leaves, structure = pytree.tree_flatten(tree)
        self._caught: dict[int, torch.Tensor] = {}
        self._wanted = [index for index, wanted in enumerate(requires_grad) if wanted]
        entered = []
        for index, (leaf, wanted) in enumerate(zip(leaves, requires_grad, strict=True)):
            if not isinstance(leaf, torch.Tensor):
                entered.append(leaf)
            elif wanted:
                entered.append(_Entry.apply(leaf.detach().requires_grad_(), self._caught, index))
            else:
                entered.append(leaf.clone())
        self.value = pytree.tree_unflatten(entered, structure)

    def gradients(self) -> list[torch.Tensor | None]:
        return [self._caught.get(index) for index in self._wanted]


def run_layers(layers: Sequence[nn.Module], value: Any) -> Any:
    """Feed a value through layers, one after another; extracted ones run several in one pass."""
    index = 0
    while index < len(layers):
        layer, num_more = layers[index], 0
        if isinstance(layer, RunsMore):
            value, num_more = layer.run_with(layers[index + 1 :], value)
        else:
            value = layer(value)
        index += 1 + num_more
    return value


@runtime_checkable
class RunsMore(Protocol):
    """A layer that may run some of those after it in the same pass; it returns the value and their number."""

    def run_with(self, following: Sequence[nn.Module], value: Any) -> tuple[Any, int]: ...


def forward(
    layers: Sequence[nn.Module],
    tree: Any,
    requires_grad: Sequence[bool],
    loss_fn: Loss | None = None,
    target: Any = None,
    options: StepOptions = PLAIN,
) -> Any:
    """Run a shard's forward and keep nothing but its output; the last shard's also takes its loss."""
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda _: None, _nothing_was_saved):
        entry = Boundary(tree, requires_grad)
        with options.casting(device_type(tree)):
            output = run_layers(layers, entry.value)
            return output if loss_fn is None else loss_fn(output, target)


def loss_and_backward(
    layers: Sequence[nn.Module],
    tree: Any,
    requires_grad: Sequence[bool],
    target: Any,
    loss_fn: Loss,
    after_forward: Callable[[], None] = lambda: None,
    options: StepOptions = PLAIN,
) -> tuple[float, list[torch.Tensor | None]]:
    """Run the last shard's forward, the loss and the backward; return the loss and the input's gradients."""
    with torch.enable_grad():
        entry = Boundary(tree, requires_grad)
        with options.casting(device_type(tree)):
            loss = loss_fn(run_layers(layers, entry.value), target)
        after_forward()
        options.objective(loss).backward()
    return loss.item(), entry.gradients()


def backward(
    layers: Sequence[nn.Module],
    tree: Any,
    requires_grad: Sequence[bool],
    gradients: Sequence[torch.Tensor | None],
    options: StepOptions = PLAIN,
    seeds: Seeds = (),
) -> list[torch.Tensor | None]:
    """Recompute a shard from its saved input, then return that input's gradients.

    gradients: of the output's tensors that require one, in order. seeds: parameters that have gradients already.
    """
    with torch.enable_grad():
        entry = Boundary(tree, requires_grad)
        with options.casting(device_type(tree)):
            outputs = [leaf for leaf in pytree.tree_leaves(run_layers(layers, entry.value)) if needs_grad(leaf)]
        go_backward(outputs, gradients, seeds)
    return entry.gradients()


def go_backward(
    outputs: Sequence[torch.Tensor] | Sequence[GradientEdge],
    gradients: Sequence[torch.Tensor | None],
    seeds: Seeds = (),
) -> None:
    """Go backward from the outputs, or from where they are in the graph, that got a gradient.

    seeds: parameters with what uses of them elsewhere came to; autograd adds the uses here to it, in their order.
    """
    pairs = [(get_gradient_edge(parameter), gradient) for parameter, gradient in seeds]
    pairs += [
        (out if isinstance(out, GradientEdge) else get_gradient_edge(out), g)
        for out, g in zip(outputs, gradients, strict=True)
        if g is not None
    ]
    if pairs:
        torch.autograd.backward([out for out, _ in pairs], [g for _, g in pairs])


def needs_grad(leaf: Any) -> bool:
    """Tell whether a leaf of a boundary is a tensor that wants a gradient."""
    return isinstance(leaf, torch.Tensor) and leaf.requires_grad


def step(
    optimizer: torch.optim.Optimizer,
    one_by_one: bool = False,
    on_parameter: Callable[[nn.Parameter], None] = lambda _: None,
) -> None:
    """Step the optimizer. one_by_one: a parameter at a time, so that state is made in small pieces.

    Both give the same bits, since every supported optimizer updates parameters independently.
    """
    if not one_by_one:
        optimizer.step()
        return
    whole = [group["params"] for group in optimizer.param_groups]
    try:
        for index, parameters in enumerate(whole):
            for parameter in parameters:
                for other, group in enumerate(optimizer.param_groups):
                    group["params"] = [parameter] if other == index else []
                optimizer.step()
                on_parameter(parameter)
    finally:
        for group, parameters in zip(optimizer.param_groups, whole, strict=True):
            group["params"] = parameters


def take_step(shard: ShardOnDevice, setup: JobSetup, minibatch: int, store: StoreView, state: torch.Tensor) -> None:
    """Clip a shard's gradients, set the step's rates, and have its optimizer step; the first step makes its state.

    state: the block that the shard is attached to. Where losses are scaled, a step with an inf is left out.
    """
    number = setup.schedule.step_of(minibatch)
    if shard.optimizer is None:
        return
    if setup.options.scaling is not None and store.read_scale(setup.name, number + 1).skips:
        return
    clips = setup.options.clip_norm is not None
    setup.options.clip(shard.parameters, store.read_norms(setup.name, len(setup.layouts), minibatch) if clips else ())
    if setup.rates:
        rates = setup.rates[number]
        for group, options in zip(shard.optimizer.param_groups, rates, strict=True):
            group.update(options)
    if not shard.has_state(state):
        step(shard.optimizer, one_by_one=True, on_parameter=lambda p: shard.keep_state(state, only=p))
    else:
        step(shard.optimizer)
        shard.keep_state(state)


def device_type(tree: Any) -> str:
    """Return the type of the device on which the tensors of a tree lie."""
    return next((leaf.device.type for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)), "cpu")


def _nothing_was_saved(_: Any) -> torch.Tensor:
    raise RuntimeError("a forward unit keeps no activations; its backward recomputes them.")
