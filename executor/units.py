"""The compute lane's work: run a unit on the blocks that its command names."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from executor import randomness
from executor.activations import KeptForward, SavedTensors, TooLarge, forward_keeping, storages
from executor.compute import Seeds, backward, forward, loss_and_backward, take_step
from executor.devices import DeviceMemory
from executor.evaluation import Score, evaluate
from executor.host_store import StoreView
from executor.layout import ShardOnDevice, parameters_of, state_on_host
from executor.messages import JobSetup, Setup
from executor.pickling import load_without_weights, tensors_in
from executor.scaling import unscale
from executor.step import StepOptions, norm_of
from executor.tensors import Slot, TreeSpec, spec_of, write_tree
from executor.ties import leave
from executor.transfer import spec_key
from hydrasim.command import Command
from hydrasim.dataflow import BlockKey, aligned
from hydrasim.workload import Phase, ShardUnit

Blocks = dict[str, tuple[BlockKey, int]]


class _Job:
    """One job's shards and loss in this process, without weights of their own."""

    def __init__(self, setup: JobSetup, memory: DeviceMemory) -> None:
        (shards, self.loss_fn, self.metric, recipes), _ = load_without_weights(setup.payload)
        self.setup = setup
        self.shards = []
        for layers, recipe, layout in zip(shards, recipes, setup.layouts, strict=True):
            parameters = parameters_of([layer.to(memory.place) for layer in layers])
            optimizer = recipe.make(parameters)
            self.shards.append(ShardOnDevice(layers, optimizer, state_on_host(layout, optimizer, parameters)))
        counts = Counter(id(parameter) for shard in self.shards for parameter in shard.parameters)
        self.sharing_objects = {
            index for index, shard in enumerate(self.shards) if any(counts[id(p)] > 1 for p in shard.parameters)
        }
        self.sharing = (None,) * len(self.shards) if setup.ties is None else setup.ties.shards
        own = set(counts)
        own |= {id(buffer) for shard in self.shards for buffer in shard.moving_buffers}
        found = tensors_in([shard.layers for shard in self.shards], (self.loss_fn, self.metric))
        # Held, so that no storage made later can be taken for one of them.
        self.constants = [tensor for tensor in found if id(tensor) not in own]
        self.constant_storages = storages(self.constants)
        self.kept: dict[int, KeptForward] = {}  # by shard


class Units:
    """Runs units in the order they come. specs: shapes of the boundaries on this device, by block."""

    def __init__(self, setup: Setup, store: StoreView, memory: DeviceMemory, specs: dict[Any, Any]) -> None:
        self._store, self._memory, self._specs = store, memory, specs
        self._jobs: dict[str, _Job] = {}
        for job in setup.jobs:
            self.add(job)

    def add(self, setup: JobSetup) -> None:
        """Make a job's modules; others may run meanwhile."""
        job = _Job(setup, self._memory)
        self._memory.exempt([job.constants, [(shard.parameters, shard.moving_buffers) for shard in job.shards]])
        self._jobs[setup.name] = job

    def run(self, command: Command) -> float | Score | None:
        """Run the command's unit; return the loss if the unit computed one that was trained on, or the score."""
        unit = command.unit
        job = self._jobs[unit.job]
        shard = job.shards[unit.shard]
        blocks: Blocks = {_role(key, unit): (key, offset) for key, offset in command.places}
        state = self._state(job, unit.shard, blocks)
        sharing = job.sharing[unit.shard]
        if unit.shard in job.sharing_objects:
            shard.detach()  # another shard may have moved them to its own copy
        shard.attach_parameters(state)
        with self._memory.computing():
            if unit.phase is Phase.UPDATE:
                shard.attach_state(state)
                if "d" in blocks:  # a shard that learns nothing has none
                    shard.attach_gradients(self._gradients(job, blocks["d"]))
                for held, gradient in zip(sharing.held, self._tied(job, blocks, "t"), strict=True) if sharing else ():
                    if held is not None:
                        shard.parameters[held].grad = gradient.clone()  # clipping is not for the others' eyes
                take_step(shard, job.setup, unit.minibatch, self._store, state)
                shard.clear_gradients()
                return None
            return self._pass(unit, job, shard, blocks, state)

    def _pass(
        self, unit: ShardUnit, job: _Job, shard: ShardOnDevice, blocks: Blocks, state: torch.Tensor
    ) -> float | Score | None:
        """Run a forward or a backward; the latter ends with a step, unless that is a unit of its own."""
        self._restore_random(unit, job)
        last = unit.shard == len(job.shards) - 1
        entry, flags = self._read(blocks["x"])
        if unit.phase in (Phase.FORWARD, Phase.EVALUATE):
            if unit.phase is Phase.FORWARD:
                output = self._forward(unit, job, shard, blocks, entry, flags, last)
            else:
                metric, target = (job.metric, self._read(blocks["y"])[0]) if last else (None, None)
                output = evaluate(shard.layers, entry, job.setup.options, metric, target)
            shard.check_buffers()
            self._save_random(unit)
            if not last:
                self._write(output, blocks["out"])
            return output if isinstance(output, Score) else None
        shard.clear_gradients()
        if job.setup.separate_updates:
            self._add_to_earlier(unit, job, shard, blocks)
        else:
            shard.attach_state(state)
        loss, gradients = self._backward(unit, job, shard, blocks, entry, flags, last)
        self._check_gradients(unit, job, shard)
        shard.check_buffers()
        if job.setup.separate_updates:
            self._leave_gradients(unit, job, shard, blocks)
        else:
            take_step(shard, job.setup, unit.minibatch, self._store, state)
        if "out" in blocks:
            self._write(gradients, blocks["out"])
        shard.clear_gradients()
        return loss

    def _gradients(self, job: _Job, block: tuple[BlockKey, int]) -> list[torch.Tensor | None]:
        """Return a shard's gradients as views of their block; None for a parameter that gets none."""
        key, offset = block
        found: list[torch.Tensor | None] = self._views(job.setup.gradients[key.shard], offset)
        return found

    def _tied(self, job: _Job, blocks: Blocks, role: str) -> list[torch.Tensor]:
        """Return the gradients of tied weights as views of a block, none if the unit has no such block."""
        if role not in blocks:
            return []
        assert job.setup.ties is not None
        found: list[torch.Tensor] = self._views(job.setup.ties.gradients, blocks[role][1])
        return found

    def _seeds(self, unit: ShardUnit, job: _Job, shard: ShardOnDevice, blocks: Blocks) -> Seeds:
        """Return the shard's tied parameters with what the shards above have summed up."""
        sharing = job.sharing[unit.shard]
        if sharing is None:
            return []
        sums = zip(sharing.held, sharing.above, self._tied(job, blocks, "t above"), strict=False)
        return [(shard.parameters[held], found) for held, above, found in sums if above and held is not None]

    def _add_to_earlier(self, unit: ShardUnit, job: _Job, shard: ShardOnDevice, blocks: Blocks) -> None:
        """Have the backward add to the gradients of the mini-batch before, in the new ones' block."""
        if "d before" not in blocks or "d" not in blocks:
            return
        earlier, place = (self._gradients(job, blocks[name]) for name in ("d before", "d"))
        for old, new in zip(earlier, place, strict=True):
            if old is not None and new is not None:
                new.copy_(old)
        shard.attach_gradients(place)

    def _leave_gradients(self, unit: ShardUnit, job: _Job, shard: ShardOnDevice, blocks: Blocks) -> None:
        """Copy the gradients to their block, and what a step has to know of them all to the host."""
        setup = job.setup
        gradients = {
            index: parameter.grad for index, parameter in zip(setup.order[unit.shard], shard.parameters, strict=True)
        }
        if setup.ties is not None and (sharing := job.sharing[unit.shard]) is not None:
            sums = self._tied(job, blocks, "t")
            leave(
                sharing, shard.parameters, sums, *(self._tied(job, blocks, f"t {role}") for role in ("above", "before"))
            )
            whole = unit.shard == setup.ties.sharing_shards[0]
            gradients |= dict(zip(setup.ties.order, sums, strict=True)) if whole else dict.fromkeys(setup.ties.order)
        if setup.schedule.steps_after(unit.minibatch):
            self._tell_of(unit, job, {index: gradient for index, gradient in gradients.items() if gradient is not None})
        if "d" in blocks:
            for parameter, place in zip(shard.parameters, self._gradients(job, blocks["d"]), strict=True):
                if place is not None and parameter.grad.data_ptr() != place.data_ptr():
                    place.copy_(parameter.grad)

    def _tell_of(self, unit: ShardUnit, job: _Job, gradients: dict[int, torch.Tensor]) -> None:
        """Unscale gradients that a step is taken on; write their norms, and after the last shard's the next scale."""
        options, name, store = job.setup.options, unit.job, self._store
        scaling = options.scaling
        minibatch, now = unit.minibatch, job.setup.schedule.step_of(unit.minibatch)
        scale = None if scaling is None else store.read_scale(name, now)
        found_inf = scale is not None and unscale(gradients.values(), scale.value)
        if options.clip_norm is not None or scale is not None:
            norms = {} if options.clip_norm is None else {index: norm_of(g) for index, g in gradients.items()}
            store.write_norms(name, unit.shard, minibatch, norms, found_inf)
        if scaling is not None and scale is not None and unit.shard == 0:
            store.write_scale(name, now + 1, scaling.after(scale, store.found_inf(name, len(job.shards), minibatch)))

    def _options(self, job: _Job, minibatch: int) -> StepOptions:
        """Return the job's options, with the scale that the loss of a mini-batch has."""
        options, step = job.setup.options, job.setup.schedule.step_of(minibatch)
        if options.scaling is None:
            return options
        return replace(options, scale=self._store.read_scale(job.setup.name, step).value)

    def _forward(
        self,
        unit: ShardUnit,
        job: _Job,
        shard: ShardOnDevice,
        blocks: Blocks,
        entry: Any,
        flags: list[bool],
        last: bool,
    ) -> Any:
        """Run a forward; keep what its backward needs if there is a block for it."""
        job.kept.pop(unit.shard, None)
        loss_fn, target = (job.loss_fn, self._read(blocks["y"])[0]) if last else (None, None)
        if "a" not in blocks:
            return forward(shard.layers, entry, flags, loss_fn, target, self._options(job, unit.minibatch))
        key, offset = blocks["a"]
        saved = SavedTensors(job.constant_storages, self._memory.arena, shard.parameter_bytes)
        saved.at(offset, blocks["w"][1] if "w" in blocks else 0, job.setup.activation_bytes[unit.shard])
        before, buffers = self._random_state(), [buffer.clone() for buffer in shard.moving_buffers]
        try:
            output, job.kept[unit.shard] = forward_keeping(
                shard.layers, entry, flags, key.minibatch, saved, loss_fn, target, self._options(job, unit.minibatch)
            )
        except TooLarge:  # of a mini-batch larger than the first; its backward will recompute
            randomness.restore(before, self._memory.generator)
            for buffer, value in zip(shard.moving_buffers, buffers, strict=True):
                buffer.copy_(value)
            return forward(shard.layers, entry, flags, loss_fn, target, self._options(job, unit.minibatch))
        return output

    def _backward(
        self,
        unit: ShardUnit,
        job: _Job,
        shard: ShardOnDevice,
        blocks: Blocks,
        entry: Any,
        flags: list[bool],
        last: bool,
    ) -> tuple[float | None, list[torch.Tensor | None]]:
        kept, seeds = job.kept.pop(unit.shard, None), self._seeds(unit, job, shard, blocks)
        if kept is not None and "a" in blocks and kept.minibatch == unit.minibatch:
            kept.saved.at(blocks["a"][1], blocks["w"][1] if "w" in blocks else 0)
            return kept.loss, kept.backward([] if last else self._read(blocks["g"])[0], seeds)
        with shard.buffers_kept() if unit.phase is Phase.BACKWARD else nullcontext():
            if last:
                target, _ = self._read(blocks["y"])
                advance = (lambda: self._save_random(unit)) if unit.phase is Phase.LOSS else (lambda: None)
                return loss_and_backward(
                    shard.layers, entry, flags, target, job.loss_fn, advance, self._options(job, unit.minibatch)
                )
            gradients, _ = self._read(blocks["g"])
            return None, backward(shard.layers, entry, flags, gradients, job.setup.options, seeds)

    def _check_gradients(self, unit: ShardUnit, job: _Job, shard: ShardOnDevice) -> None:
        found, expected = shard.parameters_with_gradient(), job.setup.has_gradient[unit.shard]
        if tuple(found) != expected:
            index = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
            raise RuntimeError(
                f"parameter {index} of shard {unit.shard} {'got a' if found[index] else 'got no'} gradient, unlike in "
                "the pilot; parameters that only sometimes get one are not supported yet."
            )

    def _state(self, job: _Job, shard: int, blocks: Blocks) -> torch.Tensor:
        offset = blocks["w"][1] if "w" in blocks else 0  # a shard without parameters has no block
        layout = job.setup.layouts[shard]
        nbytes = layout.parameter_bytes if job.setup.host_updates else layout.block_bytes
        return self._memory.arena[offset : offset + nbytes]

    def _read(self, block: tuple[BlockKey, int]) -> tuple[Any, list[bool]]:
        """Return a boundary as views of the arena, and which of its leaves want a gradient."""
        key, offset = block
        spec: TreeSpec = self._specs[spec_key(key)]
        flags = [isinstance(leaf, Slot) and leaf.requires_grad for leaf in spec.leaves]
        return self._views(spec, offset), flags

    def _views(self, spec: TreeSpec, offset: int) -> Any:
        return spec.read(self._memory.arena[offset : offset + spec.nbytes])

    def _write(self, tree: Any, block: tuple[BlockKey, int]) -> None:
        key, offset = block
        spec = spec_of(tree)
        room = aligned(self._jobs[key.job].setup.output_bytes[key.shard - (key.kind == "x")])
        if spec.nbytes > room:
            raise ValueError(
                f"{key} has {spec.nbytes} bytes, in the pilot it had {room}; give the largest mini-batch as "
                "`largest_batch`."
            )
        self._specs[spec_key(key)] = spec
        write_tree(tree, spec, self._memory.arena[offset : offset + spec.nbytes])

    def _restore_random(self, unit: ShardUnit, job: _Job) -> None:
        generator, last = self._memory.generator, None
        if generator is not None and unit.shard == 0 and unit.minibatch > 0:
            # The loader, which hands the stream on between mini-batches, has no GPU and knows nothing of its part.
            last = self._store.read_random(unit.job, len(job.shards), unit.minibatch - 1)
        state = self._store.read_random(unit.job, unit.shard, unit.minibatch)
        randomness.restore(state, generator, job.setup.seed, last)

    def _save_random(self, unit: ShardUnit) -> None:
        self._store.write_random(unit.job, unit.shard + 1, unit.minibatch, self._random_state())

    def _random_state(self) -> bytes:
        with _disable_current_modes():  # the generator's 5 kB lie on the host, whatever the device's budget
            return randomness.save(self._memory.generator)


def _role(key: BlockKey, unit: ShardUnit) -> str:
    """Name a block by what the unit does with it: its kind, out for what it hands on, or what it adds to."""
    if key.kind in ("d", "t") and key.minibatch != unit.minibatch:
        return f"{key.kind} before"
    if key.kind == "t" and key.shard > unit.shard and unit.phase is not Phase.UPDATE:
        return "t above"
    if (key.kind == "x" and key.shard == unit.shard + 1) or (key.kind == "g" and key.shard == unit.shard - 1):
        return "out"
    return key.kind
