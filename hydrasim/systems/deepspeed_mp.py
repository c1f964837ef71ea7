"""Model parallelism without spilling: layers spread over all devices, of which one computes at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydrasim.systems.base import Build
from hydrasim.systems.passes import saved_bytes
from hydrasim.systems.stages import Places, Stage, Staged, fed_bytes, input_bytes, part_of, temporary_bytes
from hydrasim.workload import Phase, TrainingJob


@dataclass(frozen=True)
class DeepspeedMP(Staged):
    """One job at a time, its layers resident on all devices; activations hop from stage to stage and back.

    recompute: keep only each shard's input, and run its forward again before its backward.

    Source: "PyTorch Distributed" and "DeepSpeed MP" of the paper's Fig. 8.
    """

    registered_name = "deepspeed-mp"
    recompute: bool = False

    def train(self, build: Build, minibatch: int) -> None:
        fetched = build.fetch(minibatch)
        stages = self.stages(build.job, build.cluster, build.devices)
        build.barrier = frozenset(self.there_and_back(build, minibatch, build.devices, stages, fetched)[:1])

    def there_and_back(
        self, build: Build, minibatch: int, devices: Sequence[int], stages: Sequence[Stage], fetched: int,
        num_parts: int = 1,
    ) -> list[int]:  # fmt: skip
        """Emit a forward and a backward of one of so many parts of a mini-batch; return each stage's last command."""
        job, passes = build.job, build.passes
        last, ends = len(stages) - 1, [0] * len(stages)
        after = [build.feed(devices[0], part_of(job.input_bytes, num_parts), minibatch, fetched)]
        targets = build.feed(devices[last], part_of(job.target_bytes, num_parts), minibatch, fetched)
        for order, (stage, device) in enumerate(zip(stages, devices, strict=False)):
            for shard in stage:
                seconds = passes.forward_s(shard, device, minibatch) / num_parts
                after = [build.compute(device, Phase.FORWARD, shard, minibatch, seconds, after)]
            if order < last:
                nbytes = part_of(job.shards[stage[-1]].output_bytes, num_parts)
                after = [build.send(device, devices[order + 1], nbytes, minibatch, after, stage[-1])]
        after.append(targets)
        for order in range(last, -1, -1):
            stage, device = stages[order], devices[order]
            for shard in reversed(stage):
                seconds = passes.backward_s(shard, device, minibatch) / num_parts
                seconds += passes.forward_s(shard, device, minibatch) / num_parts if self.recompute else 0.0
                after = [build.compute(device, Phase.BACKWARD, shard, minibatch, seconds, after)]
            ends[order] = after[0]
            if order:
                nbytes = part_of(input_bytes(job, stage[0]), num_parts)
                after = [build.send(device, devices[order - 1], nbytes, minibatch, after, stage[0])]
        return ends

    def activation_bytes(self, job: TrainingJob, stage: Stage, order: int, places: Places) -> int:
        """Return what the stage is fed, what its forwards leave, and one shard's temporaries, of a replica's part."""
        saved = [saved_bytes(job, shard) for shard in stage]
        boundaries = sum(input_bytes(job, shard) for shard in stage if shard)  # the first one's are loaded
        left = boundaries + max(saved) if self.recompute else sum(saved)
        num_parts = len(places[0])
        return part_of(left + temporary_bytes(job, stage), num_parts) + fed_bytes(job, stage, num_parts)
