"""Runs a candidate shard once on real data and reports what it takes: bytes, peak and rough seconds."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from executor import randomness
from executor.activations import SavedTensors, forward_keeping, storages
from executor.budget import BudgetTracker, storages_of
from executor.compute import backward, forward, loss_and_backward, needs_grad, step
from executor.errors import JobError
from executor.evaluation import evaluate
from executor.job import TorchJob
from executor.layout import ShardLayout, buffers_of, layout_of, parameters_of, tensor_state
from executor.pickling import check_references, describe, tensors_in
from executor.tensors import TreeSpec, packed, spec_of
from hydrasim.errors import HydraError, told

MARGIN_FRACTION = 0.02  # on top of the measured peak; the same unit on the same shapes allocates the same
_MORE_STEPS = 6  # RAdam needs temporaries from its sixth step on that it does not need before


@dataclass(frozen=True, slots=True)
class ShardPilot:
    """What one shard takes. output: its boundary, for the next shard's pilot. Bytes and seconds.

    working_bytes: measured peak of activations, gradients and temporaries, plus the margin.
    entry: the shapes of the gradients that it hands to the shard before; None where it has none.
    has_gradient: which parameters get a gradient; every later step must give the same ones.
    retained_bytes: what its layers made in the first pass and keep, such as a cached mask.
    gradients: how those of its parameters lie in one block. activation_bytes: what a forward leaves for its backward,
    if kept: counted for the shards of a `chain`. step_s: of the optimizer's step, which is in backward_s too.
    evaluate_s: of an evaluation, whose bytes count in output_bytes and working_bytes.
    """

    layout: ShardLayout
    output: Any
    output_bytes: int
    working_bytes: int
    forward_s: float
    backward_s: float
    has_gradient: tuple[bool, ...]
    retained_bytes: int
    entry: TreeSpec
    gradients: TreeSpec
    activation_bytes: int = 0
    step_s: float = 0.0
    evaluate_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Evaluated:
    output: Any
    seconds: float
    peak_bytes: int
    retained_bytes: int


class JobPilot:
    """Pilots of one job's shards, on its first or largest mini-batch; the user's objects and random state stay.

    num_threads: of torch, as a device has; bytes do not depend on it. constant_bytes: of tensors that lie on every
    device beside the arena: buffers, tensors that layers or the loss have as plain attributes.
    """

    def __init__(self, job: TorchJob, num_threads: int = 1) -> None:
        self.job, self._num_threads, self._source = job, num_threads, job.source
        self._done: dict[bytes, ShardPilot] = {}  # by signature
        self._kept: dict[bytes, tuple[int, int]] = {}
        self._evaluated: dict[bytes, _Evaluated] = {}
        check_references(job)
        weights = {id(parameter) for parameter in job.module.parameters()}
        held = tensors_in(job.layers, (job.loss_fn, job.metric_fn))
        constants = [tensor for tensor in held if id(tensor) not in weights]
        storages = {storage._cdata: storage for tensor in constants for storage in storages_of(tensor)}
        self.constant_bytes = sum(storage.nbytes() for storage in storages.values())
        self.input, self.target = map(packed, job.measured_batch)
        evaluation = job.first_evaluation_batch
        self._evaluation_target = None if evaluation is None else packed(evaluation[1])
        # What comes before a layer in an evaluation, as far as it is known.
        self._evaluation_input = {} if evaluation is None else {0: packed(evaluation[0])}
        inputs, targets = [self.input, *self._evaluation_input.values()], [self.target, self._evaluation_target]
        self.input_bytes = max(1, *(spec_of(tree).nbytes for tree in inputs))  # what has no bytes would not travel
        self.target_bytes = max(1, *(spec_of(tree).nbytes for tree in targets))

    def run(self, low: int, high: int, value: Any, gradients: TreeSpec | None = None) -> ShardPilot:
        """Pilot the shard of layers low .. high-1 on its input, twice: a first step makes optimizer state.

        A shard like one that was piloted, in all but its weights' values, takes what that one took. gradients: what the
        next shard hands back, in its strides; without it, dense ones for every output.
        """
        key = self._signature(low, high, value, gradients)
        if key not in self._done:
            with self._as_on_device(low, high):
                self._done[key] = self._run(low, high, value, gradients)
        return self._with_evaluation(self._done[key], low, high)

    def _with_evaluation(self, pilot: ShardPilot, low: int, high: int) -> ShardPilot:
        """Have what an evaluation takes in it, for jobs that have any; shards before have been piloted by then."""
        if low not in self._evaluation_input:
            return pilot
        value, last = self._evaluation_input[low], high == len(self.job.layers)
        judge = self.job.metric_fn if last else None
        key = describe((self.job.layers[low:high], judge, repr(spec_of(value).leaves)))
        if key not in self._evaluated:
            layers, metric = self._copies(low, high, self.job.metric_fn)
            tracker = BudgetTracker()
            tracker.exempt([tensors_in(layers, metric), value, self._evaluation_target])
            with self._as_on_device(low, high), tracker:
                started, options = time.perf_counter(), self.job.step_options
                output = evaluate(layers, value, options, *((metric, self._evaluation_target) if last else ()))
                seconds = time.perf_counter() - started
            handed_on = None if last else packed(output)
            del output
            self._evaluated[key] = _Evaluated(handed_on, seconds, tracker.peak_bytes, tracker.live_bytes)
        found = self._evaluated[key]
        self._evaluation_input[high] = found.output
        return replace(
            pilot,
            output_bytes=max(pilot.output_bytes, 0 if last else spec_of(found.output).nbytes),
            working_bytes=max(pilot.working_bytes, int(found.peak_bytes * (1 + MARGIN_FRACTION))),
            retained_bytes=pilot.retained_bytes + found.retained_bytes,
            evaluate_s=found.seconds,
        )

    def _signature(self, low: int, high: int, value: Any, given: TreeSpec | None = None) -> bytes:
        """Describe all that a pilot depends on; shards of equal description are alike."""
        layers = self.job.layers[low:high]
        parameters = parameters_of(layers)
        last = self.job.loss_fn if high == len(self.job.layers) else None
        states = [self.job.initial_state(parameter) for parameter in parameters]
        members = self.job.recipe(parameters).members
        shapes = repr((members, self._tied(low, high), spec_of(value).leaves, None if given is None else given.leaves))
        return describe((layers, last, states, shapes))

    def _tied(self, low: int, high: int) -> tuple[list[bool], list[bool]]:
        """Tell of each parameter of layers low .. high-1 whether other layers have it, and whether later ones do."""
        layers, shared = self.job.layers, self.job.shared
        own = [id(p) for p in parameters_of(layers[low:high])]
        if not shared:
            return [False] * len(own), [False] * len(own)
        before, after = ({id(p) for p in parameters_of(part)} & shared for part in (layers[:low], layers[high:]))
        return [p in before or p in after for p in own], [p in after for p in own]

    @contextmanager
    def _as_on_device(self, low: int, high: int) -> Iterator[None]:
        """Have layers low .. high-1 run as in a worker; leave no trace, and say which failed if one does."""
        before, num_threads = randomness.save(), torch.get_num_threads()
        try:
            torch.set_num_threads(self._num_threads)
            randomness.seed_all(self.job.seed)
            yield
        except HydraError:
            raise
        except (Exception, SystemExit) as reason:
            raise JobError(
                f"job {self.job.name!r}: layers {low}..{high - 1} failed in their pilot run: {told(reason)}"
            ) from reason
        finally:
            randomness.restore(before)
            torch.set_num_threads(num_threads)

    def _run(self, low: int, high: int, value: Any, given: TreeSpec | None) -> ShardPilot:
        """Run F on one copy of the layers, B or L with a step on another: in a run, either may come first."""
        last = high == len(self.job.layers)
        output, forward_peak, forward_s, moving = self._forward(low, high, value)
        if given is None and not last:
            given = spec_of([torch.ones_like(leaf) for leaf in pytree.tree_leaves(output) if needs_grad(leaf)])
        layers, loss_fn = self._copies(low, high)
        parameters = parameters_of(layers)
        flags = [needs_grad(leaf) for leaf in pytree.tree_leaves(value)]
        tied, seeded = self._tied(low, high)
        seeds = [(p, torch.zeros_like(p)) for p, is_seeded in zip(parameters, seeded, strict=True) if is_seeded]
        tracker = BudgetTracker()
        tracker.exempt([tensors_in(layers, loss_fn), value, self.target, seeds])
        optimizer, states = self._optimizer(low, high, parameters)
        options = self.job.step_options
        for first in (True, False):  # the first step makes optimizer state, every later one has it in the arena
            gradients = [] if given is None else given.read(torch.zeros(given.nbytes, dtype=torch.uint8))
            tracker.exempt([gradients, [list(state.values()) for state in states]])

            def keep(parameter: nn.Parameter) -> None:
                index = next(i for i, p in enumerate(parameters) if p is parameter)
                assert optimizer is not None
                states[index] = tensor_state(optimizer, parameter, self._complain)
                tracker.exempt(list(states[index].values()))

            started = time.perf_counter()
            with tracker:
                if last:
                    results = loss_and_backward(layers, value, flags, self.target, loss_fn, options=options)[1]
                else:
                    results = backward(layers, value, flags, gradients, options, seeds)
                has_gradient = tuple(parameter.grad is not None for parameter in parameters)
                if optimizer is not None:
                    step(optimizer, one_by_one=first, on_parameter=keep)
                ended = time.perf_counter()
                for _ in range(_MORE_STEPS if optimizer is not None and not first else 0):
                    step(optimizer)
                step_s = (time.perf_counter() - ended) / _MORE_STEPS
            entry = spec_of(results)
            own = spec_of([None if is_tied else p.grad for p, is_tied in zip(parameters, tied, strict=True)])
            del results  # alive during the step, as in a unit, which hands them on after it
            for parameter in parameters:
                parameter.grad = None
        made = ShardPilot(
            layout=layout_of(parameters, states, buffers_of(layers) if moving else ()),
            output=output,
            output_bytes=0 if last else spec_of(output).nbytes,
            working_bytes=int(max(forward_peak, tracker.peak_bytes) * (1 + MARGIN_FRACTION)),
            forward_s=forward_s,
            backward_s=max(0.0, ended - started - forward_s),
            has_gradient=has_gradient,
            retained_bytes=tracker.live_bytes,
            entry=entry,
            gradients=own,
            step_s=step_s,
        )
        if given is not None:
            self._done[self._signature(low, high, value, given)] = made
        return made

    def _forward(self, low: int, high: int, value: Any) -> tuple[Any, int, float, bool]:
        """Run F; return its output as the next shard gets it, peak bytes, seconds, and whether it changes buffers."""
        layers, loss_fn = self._copies(low, high)
        buffers = buffers_of(layers)
        flags = [needs_grad(leaf) for leaf in pytree.tree_leaves(value)]
        before = [buffer.clone() for buffer in buffers]
        tracker = BudgetTracker()
        tracker.exempt([tensors_in(layers, loss_fn), value, self.target])
        started = time.perf_counter()
        with tracker:
            own_loss = loss_fn if high == len(self.job.layers) else None
            output = forward(layers, value, flags, own_loss, self.target, self.job.step_options)
        seconds = time.perf_counter() - started
        moving = any(not torch.equal(a, b) for a, b in zip(buffers, before, strict=True))
        return packed(output), tracker.peak_bytes, seconds, moving

    def _optimizer(
        self, low: int, high: int, parameters: list[nn.Parameter]
    ) -> tuple[torch.optim.Optimizer | None, list[dict[str, Any]]]:
        """Make the shard's optimizer over copies of its parameters, and the state that it starts with."""
        originals = parameters_of(self.job.layers[low:high])
        optimizer = self.job.recipe(originals).make(parameters)
        states = [copy.deepcopy(self.job.initial_state(original)) for original in originals]
        for parameter, state in zip(parameters, states, strict=True):
            if optimizer is not None and state:
                optimizer.state[parameter] = state
        return optimizer, states

    def _copies(self, low: int, high: int, judge: Any = None) -> tuple[list[nn.Module], Any]:
        """Copy the layers and the loss, or another judge, which may be a module, and count or learn."""
        judge, originals = self.job.loss_fn if judge is None else judge, self.job.layers[low:high]
        layers = list(copy.deepcopy(nn.ModuleList(originals)))
        if self._source is not None:
            pairs = zip(parameters_of(layers), parameters_of(originals), strict=True)
            self._source.fill(layers, {id(own): self.job.names[id(original)] for own, original in pairs})
        return layers, copy.deepcopy(judge)

    def chain(self, bounds: Sequence[tuple[int, int]]) -> list[ShardPilot]:
        """Pilot consecutive shards, each on the output of the one before and the gradients of the one after."""
        value = self.input
        values = []
        for low, high in bounds:
            values.append(value)
            value = self.run(low, high, value).output
        pilots: list[ShardPilot] = []
        gradients: TreeSpec | None = None
        for (low, high), value in reversed(list(zip(bounds, values, strict=True))):
            pilot = self.run(low, high, value, gradients)
            pilots.insert(0, self._with_activations(pilot, low, high, value))
            gradients = pilot.entry
        return pilots

    def _with_activations(self, pilot: ShardPilot, low: int, high: int, value: Any) -> ShardPilot:
        """Run the forward once more, and count what it leaves if its activations are kept.

        What graphs hold by other ways than saving it, as a function of the user's may, lies on the device all along.
        """
        signature = self._signature(low, high, value)
        if signature not in self._kept:
            layers, loss_fn = self._copies(low, high)
            last = high == len(self.job.layers)
            own = tensors_in(layers, loss_fn)  # weights too: in a run these are found in the arena
            saved, tracker = SavedTensors(storages(own)), BudgetTracker()
            tracker.exempt([own, value, self.target])
            flags = [needs_grad(leaf) for leaf in pytree.tree_leaves(value)]
            with self._as_on_device(low, high), tracker:
                own_loss, target = (loss_fn, self.target) if last else (None, None)
                output, kept = forward_keeping(layers, value, flags, 0, saved, own_loss, target, self.job.step_options)
                del output
                held_bytes = tracker.live_bytes
                del kept
            self._kept[signature] = saved.nbytes, held_bytes - tracker.live_bytes
        activation_bytes, held_bytes = self._kept[signature]
        return replace(pilot, activation_bytes=activation_bytes, retained_bytes=pilot.retained_bytes + held_bytes)

    def _complain(self, problem: str) -> None:
        raise JobError(f"job {self.job.name!r}: {problem}")
