"""Counts what a job's shards take without memory for them: bytes, FLOPs and kernels, on tensors without data.

The pilot's own steps run on fake tensors, which have shapes and strides and no elements. So state, boundaries and
peaks are those that a pilot on real tensors finds, in the time that it takes to dispatch the operators; but for real
operators whose result has room to spare, such as the scalar of mse_loss, which lies in room for all its addends.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from executor.budget import storages_of
from executor.compute import Boundary, needs_grad, run_layers
from executor.errors import JobError
from executor.job import TorchJob
from executor.kernels import BACKWARD, FORWARD, UPDATE, KernelCounter
from executor.layout import parameters_of
from executor.pickling import tensors_in
from executor.pilot import JobPilot, ShardPilot
from executor.tensors import TreeSpec, packed, spec_of
from hydrasim.errors import told
from hydrasim.roofline import Counts, Kernel, ShardKernels
from hydrasim.workload import Shard, TrainingJob, Workload

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedShard(ShardPilot):
    """A pilot without seconds, and what its forward, its backward (without recomputation) and its update run.

    activation_bytes: what the forward saves for the backward beside parameters and constants; its own copy of the
    shard's input is among it.
    """

    forward_kernels: tuple[Kernel, ...]
    backward_kernels: tuple[Kernel, ...]
    update_kernels: tuple[Kernel, ...]


class AnalyticPilot(JobPilot):
    """Pilots of one job's shards on fake tensors; shards that are alike are counted once.

    precision: what all floating-point tensors are in, fp32, tf32, fp16 or bf16. batch_size: instead of that of the
    first mini-batch, in the first dimension of inputs and targets. as_on_gpu: attention is one kernel even with
    dropout, for which a CPU has none, and an optimizer's kernels take all parameters at once. Attention counts all
    scores, causal or not. Buffers that a forward changes are taken as unchanged.

    Raises:
        JobError: the dataloader fails, or layers need the values of tensors.
    """

    def __init__(
        self, job: TorchJob, precision: str = "fp32", *, batch_size: int | None = None, as_on_gpu: bool = True
    ) -> None:
        if precision not in DTYPES:
            raise JobError(f"precision is {precision!r}; it is one of {', '.join(DTYPES)}.")
        self.job, self.precision, self._num_threads = job, precision, 1
        self._done = {}
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._attention = _FusedAttention() if as_on_gpu else _AsWritten()
        self._counter = KernelCounter(merged_updates=as_on_gpu)
        weights = {id(parameter) for parameter in job.module.parameters()}
        constants = [tensor for tensor in tensors_in(job.layers, job.loss_fn) if id(tensor) not in weights]
        sizes = {s._cdata: self._cast_bytes(tensor, s.nbytes()) for tensor in constants for s in storages_of(tensor)}
        self.constant_bytes = sum(sizes.values())
        batch = job.measured_batch
        try:
            with self._mode:
                self.input, self.target = (packed(self._fake_tree(tree, batch_size)) for tree in batch)
        except RuntimeError as reason:
            raise JobError(f"job {job.name!r}: no mini-batch of {batch_size} samples can be: {told(reason)}") from None
        self.input_bytes = max(1, spec_of(self.input).nbytes)
        self.target_bytes = max(1, spec_of(self.target).nbytes)

    def _run(self, low: int, high: int, value: Any, given: TreeSpec | None) -> CountedShard:
        with self._mode, self._attention, self._counter:
            try:
                return self._count(low, high, value, given)
            except (DataDependentOutputException, DynamicOutputShapeException) as reason:
                raise JobError(
                    f"job {self.job.name!r}: layers {low}..{high - 1} or the loss go by the values of tensors "
                    f"({reason.func}), which tensors without data do not have.\n"
                    "  Take such decisions from shapes, or measure a profile of the real model instead."
                ) from None

    def _count(self, low: int, high: int, value: Any, given: TreeSpec | None) -> CountedShard:
        activation_bytes = self._activation_bytes(low, high, value)
        made = super()._run(low, high, value, given)
        found = {field.name: getattr(made, field.name) for field in fields(ShardPilot)}
        found |= {"forward_s": 0.0, "backward_s": 0.0, "activation_bytes": activation_bytes}
        counted = CountedShard(**found, **self._counter.found())
        self._done.update({key: counted for key, pilot in self._done.items() if pilot is made})
        return counted

    def _with_activations(self, pilot: ShardPilot, low: int, high: int, value: Any) -> ShardPilot:
        """Do nothing: a counted shard has counted them."""
        return pilot

    def _with_evaluation(self, pilot: ShardPilot, low: int, high: int) -> ShardPilot:
        """Do nothing: a forward stands for it."""
        return pilot

    def _activation_bytes(self, low: int, high: int, value: Any) -> int:
        """Run the forward and return what autograd saves, each storage once."""
        layers, loss_fn = self._copies(low, high)
        constants = {s._cdata for tensor in tensors_in(layers, loss_fn) for s in storages_of(tensor)}
        saved: dict[int, torch.UntypedStorage] = {}  # held, or a later one would take the place of a freed one

        def note(tensor: torch.Tensor) -> None:
            saved.update((s._cdata, s) for s in storages_of(tensor) if s._cdata not in constants)

        entry = Boundary(value, [needs_grad(leaf) for leaf in pytree.tree_leaves(value)])
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda _: None):
            output = run_layers(layers, entry.value)
            if high == len(self.job.layers):
                output = loss_fn(output, self.target)
        return sum(storage.nbytes() for storage in saved.values())

    def _copies(self, low: int, high: int, judge: Any = None) -> tuple[list[nn.Module], Any]:
        """Copy layers and loss with fake tensors, and have them tell the counter where they begin and end."""
        layers, loss_fn = self.job.layers[low:high], self.job.loss_fn
        fakes = {id(tensor): self._fake(tensor) for tensor in tensors_in(layers, loss_fn)}
        layers, loss_fn = copy.deepcopy((nn.ModuleList(layers), loss_fn), fakes)
        first, last = _Mark(self._counter, FORWARD), _Mark(self._counter, BACKWARD)
        if high == len(self.job.layers):
            return [first, *layers], partial(_marked_loss, last, loss_fn)
        return [first, *layers, last], loss_fn

    def _optimizer(
        self, low: int, high: int, parameters: list[nn.Parameter]
    ) -> tuple[torch.optim.Optimizer | None, list[dict[str, Any]]]:
        """Make the shard's optimizer with fake state; after a step it stops the count."""
        originals = parameters_of(self.job.layers[low:high])
        optimizer = self.job.recipe(originals).make(parameters)
        states = [pytree.tree_map_only(torch.Tensor, self._fake, self.job.initial_state(p)) for p in originals]
        if optimizer is not None:
            optimizer.state.update((p, state) for p, state in zip(parameters, states, strict=True) if state)
            for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):  # shared with the user's own
                setattr(optimizer, name, copy.copy(getattr(optimizer, name)))
            optimizer.register_step_pre_hook(lambda *_: self._counter.enter(UPDATE))
            optimizer.register_step_post_hook(lambda *_: self._counter.enter(None))
        return optimizer, states

    def _fake(self, tensor: torch.Tensor) -> torch.Tensor:
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=self._dtype(tensor), device="cpu")
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(made, tensor.requires_grad)
        return made.requires_grad_(tensor.requires_grad)

    def _fake_tree(self, tree: Any, batch_size: int | None) -> Any:
        def fake(tensor: torch.Tensor) -> torch.Tensor:
            shape = tensor.shape if batch_size is None or not tensor.dim() else (batch_size, *tensor.shape[1:])
            return torch.empty(shape, dtype=self._dtype(tensor)).requires_grad_(tensor.requires_grad)

        return pytree.tree_map_only(torch.Tensor, fake, tree)

    def _dtype(self, tensor: torch.Tensor) -> torch.dtype:
        return DTYPES[self.precision] if tensor.dtype.is_floating_point else tensor.dtype

    def _cast_bytes(self, tensor: torch.Tensor, nbytes: int) -> int:
        return nbytes // tensor.element_size() * self._dtype(tensor).itemsize


def counted(
    pilots: Sequence[AnalyticPilot], cuts: Sequence[tuple[int, ...]], *, fused: bool = True
) -> tuple[Workload, Counts]:
    """Count jobs in these cuts; return their workload, without seconds, and what their shards run.

    Raises:
        JobError: a job cannot be counted, or the cuts are impossible.
    """
    jobs, counts = [], dict[tuple[str, int], ShardKernels]()
    for pilot, own in zip(pilots, cuts, strict=True):
        job = pilot.job
        job.shards(own)  # complains about impossible cuts
        shards = []
        for index, found in enumerate(pilot.chain(list(itertools.pairwise([0, *own, len(job.layers)])))):
            assert isinstance(found, CountedShard)
            counts[job.name, index] = ShardKernels(found.forward_kernels, found.backward_kernels, found.update_kernels)
            shards.append(
                Shard(
                    0.0, 0.0, found.layout.parameter_bytes, found.layout.optimizer_bytes, found.output_bytes,
                    found.working_bytes, found.activation_bytes,
                )
            )  # fmt: skip
        jobs.append(
            TrainingJob(
                job.name, tuple(shards), fused=fused, input_bytes=pilot.input_bytes, target_bytes=pilot.target_bytes,
                **job.lengths,
            )
        )  # fmt: skip
    return Workload(tuple(jobs)), counts


def even_cuts(job: TorchJob, layers_each: int | None = None, num_shards: int | None = None) -> tuple[int, ...]:
    """Return cuts into shards of so many layers each, or into so many shards, at most one a layer."""
    num_layers = len(job.layers)
    if num_shards is not None:
        num_shards = min(num_shards, num_layers)
        return tuple(index * num_layers // num_shards for index in range(1, num_shards))
    return tuple(range(layers_each or 1, num_layers, layers_each or 1))


class _Mark(nn.Module):
    """An identity that has the counter enter a phase."""

    def __init__(self, counter: KernelCounter, phase: str) -> None:
        super().__init__()
        self._counter, self._phase = counter, phase

    def __deepcopy__(self, memo: Any) -> _Mark:
        return self

    def forward(self, value: Any) -> Any:
        """Enter the phase."""
        self._counter.enter(self._phase)
        return value


def _marked_loss(mark: _Mark, loss_fn: Any, output: Any, target: Any) -> Any:
    return mark(loss_fn(output, target))


class _AsWritten(TorchFunctionMode):
    """Calls functions as they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _FusedAttention(_AsWritten):
    """Leaves dropout out of attention, without which a CPU has one kernel for it, as GPUs have with it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            kwargs = {**(kwargs or {}), "dropout_p": 0.0}
            args = args[:4]
        return super().__torch_function__(func, types, args, kwargs)
