"""Runs a candidate shard once on real data and reports what it takes: bytes, peak and rough seconds."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import torch
from torch import nn
from torch.utils import _pytree as pytree

from executor import randomness
from executor.budget import BudgetTracker
from executor.compute import backward, forward, loss_and_backward, needs_grad, step
from executor.errors import JobError
from executor.job import TorchJob, check_references
from executor.layout import ShardLayout, layout_of, parameters_of, tensor_state
from executor.tensors import spec_of
from hydrasim.errors import HydraError

MARGIN_FRACTION = 0.02  # on top of the measured peak; the same unit on the same shapes allocates the same


@dataclass(frozen=True, slots=True)
class ShardPilot:
    """What one shard takes. output: its boundary, for the next shard's pilot. Bytes and seconds.

    working_bytes: measured peak of activations, gradients and temporaries, plus the margin.
    has_gradient: which parameters get a gradient; every later step must give the same ones.
    """

    layout: ShardLayout
    output: Any
    output_bytes: int
    working_bytes: int
    forward_s: float
    backward_s: float
    has_gradient: tuple[bool, ...]
    constant_bytes: int


class JobPilot:
    """Pilots of one job's shards, on its first mini-batch; the user's objects and random state stay as they are."""

    def __init__(self, job: TorchJob) -> None:
        self.job = job
        self._done: dict[tuple[int, int], ShardPilot] = {}
        check_references(job)
        before = randomness.save()
        try:
            loader = cloudpickle.loads(cloudpickle.dumps(job.dataloader))
            batch = next(iter(loader))
        except StopIteration:
            raise JobError(f"job {job.name!r}: the dataloader yields nothing.") from None
        except Exception as reason:
            raise JobError(
                f"job {job.name!r}: the dataloader failed on its first mini-batch: {type(reason).__name__}: {reason}"
            ) from reason
        finally:
            randomness.restore(before)
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise JobError(f"job {job.name!r}: the dataloader must yield (input, target) pairs.")
        self.input, self.target = batch
        self.input_bytes = max(1, spec_of(self.input).nbytes)  # what has no bytes would not travel
        self.target_bytes = max(1, spec_of(self.target).nbytes)

    def run(self, low: int, high: int, value: Any) -> ShardPilot:
        """Pilot the shard of layers low .. high-1 on its input, twice: a first step makes optimizer state."""
        if (low, high) not in self._done:
            before, num_threads = randomness.save(), torch.get_num_threads()
            try:
                torch.set_num_threads(1)  # what a device has
                randomness.seed_all(self.job.seed)
                self._done[low, high] = self._run(low, high, value)
            except HydraError:
                raise
            except Exception as reason:
                raise JobError(
                    f"job {self.job.name!r}: layers {low}..{high - 1} failed in their pilot run: "
                    f"{type(reason).__name__}: {reason}"
                ) from reason
            finally:
                randomness.restore(before)
                torch.set_num_threads(num_threads)
        return self._done[low, high]

    def _run(self, low: int, high: int, value: Any) -> ShardPilot:
        """Run F, then B or L with a step, on a copy of the layers."""
        job, last = self.job, high == len(self.job.layers)
        layers: list[nn.Module] = list(copy.deepcopy(nn.ModuleList(job.layers[low:high])))
        loss_fn = copy.deepcopy(job.loss_fn)  # it may be a module, and count or learn
        parameters = parameters_of(layers)
        buffers = [buffer for layer in layers for buffer in layer.buffers()]
        flags = [needs_grad(leaf) for leaf in pytree.tree_leaves(value)]
        tracker = BudgetTracker()
        tracker.exempt([parameters, buffers, value, self.target])

        kept = [buffer.clone() for buffer in buffers]
        started = time.perf_counter()
        with tracker:
            output = forward(layers, value, flags, loss_fn if last else None, self.target)
        forward_s = time.perf_counter() - started
        self._check_buffers(buffers, kept, f"{low}..{high - 1}")
        output = pytree.tree_map_only(torch.Tensor, _detached, output)
        originals = parameters_of(job.layers[low:high])
        optimizer = job.recipe(originals).make(parameters)
        states = [copy.deepcopy(job.initial_state(original)) for original in originals]
        for parameter, state in zip(parameters, states, strict=True):
            if optimizer is not None and state:
                optimizer.state[parameter] = state
        for first in (True, False):  # the first step makes optimizer state, every later one has it in the arena
            gradients = [torch.ones_like(leaf) for leaf in pytree.tree_leaves(output) if needs_grad(leaf)]
            tracker.exempt([output, gradients, [list(state.values()) for state in states]])

            def keep(parameter: nn.Parameter) -> None:
                index = next(i for i, p in enumerate(parameters) if p is parameter)
                assert optimizer is not None
                states[index] = tensor_state(optimizer, parameter, self._complain)
                tracker.exempt(list(states[index].values()))

            started = time.perf_counter()
            with tracker:
                if last:
                    results = loss_and_backward(layers, value, flags, self.target, loss_fn)[1]
                else:
                    results = backward(layers, value, flags, gradients)
                has_gradient = tuple(parameter.grad is not None for parameter in parameters)
                if optimizer is not None:
                    step(optimizer, one_by_one=first, on_parameter=keep)
            seconds = time.perf_counter() - started
            del results  # alive during the step, as in a unit, which hands them on after it
            for parameter in parameters:
                parameter.grad = None
        return ShardPilot(
            layout=layout_of(parameters, states),
            output=output,
            output_bytes=0 if last else spec_of(output).nbytes,
            working_bytes=int(tracker.peak_bytes * (1 + MARGIN_FRACTION)),
            forward_s=forward_s,
            backward_s=max(0.0, seconds - forward_s),
            has_gradient=has_gradient,
            constant_bytes=sum(buffer.untyped_storage().nbytes() for buffer in buffers),
        )

    def _check_buffers(self, buffers: list[torch.Tensor], before: list[torch.Tensor], layers: str) -> None:
        if any(not torch.equal(a, b) for a, b in zip(buffers, before, strict=True)):
            raise JobError(
                f"job {self.job.name!r}: layers {layers} change their buffers in the forward pass (as BatchNorm does); "
                "recomputation would change them twice, so this is not supported yet."
            )

    def chain(self, bounds: Sequence[tuple[int, int]]) -> list[ShardPilot]:
        """Pilot consecutive shards, each on the output of the one before."""
        pilots: list[ShardPilot] = []
        value = self.input
        for low, high in bounds:
            pilots.append(self.run(low, high, value))
            value = pilots[-1].output
        return pilots

    def _complain(self, problem: str) -> None:
        raise JobError(f"job {self.job.name!r}: {problem}")


def _detached(tensor: torch.Tensor) -> torch.Tensor:
    """Cut a boundary out of its graph, remembering whether it wants a gradient."""
    return tensor.detach().requires_grad_(tensor.requires_grad)
