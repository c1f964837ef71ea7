"""One model far larger than its device: does it train, how much memory does it take, and was its time foretold.

    python -m experiments.largest --device cuda --memory 11GiB [--depth 190] [--output results/largest]

By default it is a GPT of 190 blocks of GPT-2 XL, 5.8 billion parameters, on one device as large as the paper's
cards. It repeats one mini-batch, whose loss must fall; the step's time is foretold from a profile of three steps.
"""

from __future__ import annotations

import copy
import json
import resource
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from executor import CpuDevice, CudaDevice, TorchJob, prepare, train
from executor.devices import Device
from executor.profiler import profile
from experiments.inputs import parse_bytes
from experiments.jobs import check_cuda
from experiments.models import Block, Embedding, Head, next_byte_loss, text_loader
from hydrasim.disk import make_folder, write_text
from hydrasim.errors import HydraError
from hydrasim.simulator import simulate

_POLICY = "sharded-lrtf"
_PROFILED_STEPS = 3


@dataclass(frozen=True)
class Shape:
    """A byte-level GPT: blocks, width, heads, bytes of context, sequences of a mini-batch."""

    depth: int = 190
    width: int = 1600
    num_heads: int = 25
    context: int = 1024
    batch_size: int = 4
    blocks_a_shard: int = 4  # stated, since trying out what fits would run billions of weights many times

    def layers(self) -> list[nn.Module]:
        """Build the chain; blocks start as copies of one, which makes billions of weights in seconds."""
        torch.manual_seed(0)
        block = Block(self.width, self.num_heads, 0.0)
        with torch.no_grad():
            for linear in (block.projection, block.mlp[2]):  # what adds to the residual stream, as in GPT-2
                linear.weight /= (2 * self.depth) ** 0.5
        blocks = [copy.deepcopy(block) for _ in range(self.depth)]
        return [Embedding(self.width, self.context, 0.0), *blocks, Head(self.width)]

    @property
    def cuts(self) -> tuple[int, ...]:
        """The first layer of every shard but the first; embedding and head go with the blocks beside them."""
        return tuple(range(1 + self.blocks_a_shard, 1 + self.depth, self.blocks_a_shard))


def run(shape: Shape, device: Device, num_steps: int, learning_rate: float) -> dict[str, Any]:
    """Train on one repeated mini-batch by SGD; return what it took beside what was foretold.

    Raises:
        HydraError: it does not fit, or a run failed.
    """
    seconds: dict[str, float] = {}

    def lap(name: str, began_s: float) -> float:
        seconds[name] = time.monotonic() - began_s
        typer.echo(f"{name}: {seconds[name]:.1f} s", err=True)
        return time.monotonic()

    began_s = time.monotonic()
    job = TorchJob(
        "largest", shape.layers(), next_byte_loss, text_loader(1, shape.batch_size, shape.context),
        partial(torch.optim.SGD, lr=learning_rate), epochs=num_steps, cuts=shape.cuts,
        activation_mode="recompute",
    )  # fmt: skip
    began_s = lap("build", began_s)
    prepared = prepare([job], [device])
    began_s = lap("prepare", began_s)
    measured = profile(prepared, rounds=1, minibatches=_PROFILED_STEPS)
    began_s = lap("profile", began_s)
    cluster = measured.cluster or prepared.cluster
    foretold = simulate(prepared.workload, cluster, _POLICY, costs=measured.costs(cluster))
    began_s = lap("simulate", began_s)
    result = train(prepared, policy=_POLICY, profile=measured, update_models=False, strict=True)
    lap("train", began_s)
    num_parameters = sum(parameter.numel() for parameter in job.module.parameters())
    peak_kib = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "label": result.timeline.header.get("label", ""),
        "device": cluster.devices[0].kind,
        "num_parameters": num_parameters,
        "state_bytes": sum(shard.layout.block_bytes for part in prepared.partitions for shard in part.shards),
        "num_shards": len(prepared.workload.jobs[0].shards),
        "device_budget_bytes": device.describe().memory_bytes,
        "peak_device_bytes": result.peak_bytes[0],
        "host_store_bytes": result.host_bytes,
        "peak_parent_bytes": peak_kib[0] * 1024,
        "num_steps": num_steps,
        "losses": list(result.jobs["largest"].losses),
        "step_s": result.makespan_s / num_steps,
        "simulated_step_s": foretold.makespan_s / num_steps,
        "error_fraction": foretold.makespan_s / result.makespan_s - 1,
        "utilization": result.timeline.utilization(),
        "tokens_per_s": shape.batch_size * shape.context * num_steps / result.makespan_s,
        "phases_s": seconds,
        "torch": torch.__version__,
    }


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda",
    memory: Annotated[str, typer.Option(help="What the device may use.")] = "11GiB",
    depth: Annotated[int, typer.Option(help="Blocks of GPT-2 XL's width.", min=1)] = Shape.depth,
    width: Annotated[int, typer.Option(min=1)] = Shape.width,
    heads: Annotated[int, typer.Option(min=1)] = Shape.num_heads,
    context: Annotated[int, typer.Option(help="Bytes of a sequence.", min=1)] = Shape.context,
    batch_size: Annotated[int, typer.Option(min=1)] = Shape.batch_size,
    blocks_a_shard: Annotated[int, typer.Option(min=1)] = Shape.blocks_a_shard,
    steps: Annotated[int, typer.Option(min=2)] = 4,
    learning_rate: Annotated[float, typer.Option()] = 5e-4,
    output: Annotated[Path, typer.Option(help="Folder for summary.json.")] = Path("results/largest"),
) -> None:
    """Train one model far larger than its device. Exit code 1: the loss did not fall; 2: nothing ran."""
    try:
        check_cuda(device)
        memory_bytes = parse_bytes(memory)
        shape = Shape(depth, width, heads, context, batch_size, blocks_a_shard)
        made: Device = CudaDevice(0, memory_bytes) if device == "cuda" else CpuDevice(memory_bytes)
        found = run(shape, made, steps, learning_rate)
        make_folder(output)
        write_text(output / "summary.json", json.dumps(found, indent=1) + "\n")
    except HydraError as reason:
        typer.echo(f"{reason}", err=True)
        raise typer.Exit(2) from None
    typer.echo(json.dumps(found, indent=1))
    if found["losses"][-1] >= found["losses"][0]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
