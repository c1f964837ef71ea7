"""The paper's workloads on machines: twelve jobs of a grid, cut to fit, with analytic seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from experiments.paper.counting import CountedModel, ModelSpec, Precision, count_layers, even_cuts
from hydrasim.capacity import arena_bytes, check_fits
from hydrasim.cluster import Cluster
from hydrasim.errors import ShardTooLarge
from hydrasim.machine import Machine
from hydrasim.mechanism import PAPER, Mechanism
from hydrasim.roofline import QUOTED, Efficiency, Roofline, timed
from hydrasim.workload import Workload

PAPER_2021 = replace(PAPER, loading_zone_fraction=0.15)  # that version's default; that of 2022 is 5 %
RIVAL_SHARDS = 24  # what systems that do not spill cut into stages: three a device on eight
_SHRINK, _TRIES = 0.95, 20  # of the room for the layers within, until the first and last shards fit too
_STEPS = 40  # shares of the room tried for activations
_MOST = 0.99  # of an arena for the loading zone


class PaperJob(NamedTuple):
    """A job of a grid. num_minibatches: over all epochs."""

    name: str
    model: ModelSpec
    num_minibatches: int


def bert_grid() -> list[PaperJob]:
    """Return the hyper-parameter workload: BERT-Large*, batch {8, 16, 32} x four learning rates, 4 epochs.

    WikiText-2 gives 2001, 1000 and 500 mini-batches an epoch. Learning rates change no time.
    """
    epochs = 4
    return [
        PaperJob(f"b{batch}-lr{rate}", ModelSpec("bert", "large*", batch), epochs * minibatches)
        for batch, minibatches in ((8, 2001), (16, 1000), (32, 500))
        for rate in ("1e-3", "1e-4", "1e-5", "1e-6")
    ]


def vit_grid(batch_sizes: Sequence[int] = (64, 128)) -> list[PaperJob]:
    """Return the architecture workload: six ViT* x two batch sizes, 5 epochs of CIFAR-10's 50,000 images.

    Batch sizes are those of the 2021 version; that of 2022 says 512 and 1024, the released script 128 and 256.
    """
    return [
        PaperJob(f"{size}-b{batch}", ModelSpec("vit", size, batch), 5 * (50_000 // batch))
        for size in ("300M", "600M", "800M", "1B", "1.5B", "2B")
        for batch in batch_sizes
    ]


def gpt2_grid() -> list[PaperJob]:
    """Return the workload of the later versions' scripts: GPT-2 XL, batch {16, 8} x six learning rates, 1 epoch."""
    return [
        PaperJob(f"b{batch}-lr{rate}", ModelSpec("gpt2", "xl", batch), minibatches)
        for batch, minibatches in ((16, 299), (8, 598))
        for rate in ("3e-4", "1e-4", "5e-5", "6e-5", "1e-5", "2e-5")
    ]


def transformers(
    count: int, num_parameters: float, batch_size: int = 16, num_minibatches: int = 4000
) -> list[PaperJob]:
    """Return equal jobs for the scaling figures, whose batch size and length the paper does not say."""
    model = ModelSpec("transformer", str(num_parameters), batch_size)
    return [PaperJob(f"m{index}", model, num_minibatches) for index in range(count)]


Cut = Callable[[ModelSpec], tuple[int, ...]]


@dataclass(frozen=True)
class World:
    """Jobs on a cluster, with all their mini-batches and the seconds that units take.

    cuts: of each model, where it was cut for spilling.
    """

    workload: Workload
    cluster: Cluster
    mechanism: Mechanism = PAPER
    cuts: Mapping[ModelSpec, tuple[int, ...]] = field(default_factory=dict, compare=False)


def sharp_world(
    jobs: Sequence[PaperJob],
    machine: Machine,
    *,
    num_devices: int | None = None,
    precision: Precision = "autocast",
    mechanism: Mechanism = PAPER,
    efficiency: Efficiency | None = None,
    cuts: Cut | None = None,
) -> World:
    """Return jobs cut for spilling: equally many layers a shard, as many as fit beside the loading zone.

    The loading zone is a share of the device's memory, as in the paper; the mechanism's is one of what activations
    leave, so it is worked out anew. Without one (None) a shard takes half of that, so that another can be loaded.
    cuts: of each model instead, where the authors gave them.

    Raises:
        ShardTooLarge: not even single layers fit.
    """
    cluster = machine.first(num_devices)
    memory = min(device.memory_bytes for device in cluster.devices)
    models = list(dict.fromkeys(job.model for job in jobs))
    zone = mechanism.loading_zone_fraction
    room = memory * (1.0 - (zone or 0.0))
    layers = {model: count_layers(model, precision) for model in models}
    while True:
        chosen = {m: cuts(m) for m in models} if cuts else _fitting_cuts(layers, room, 2 if zone is None else 1)
        counted = {model: found.cut(chosen[model]) for model, found in layers.items()}
        workload = _workload(jobs, counted, machine, precision, efficiency)
        arena = min(arena_bytes(workload, cluster))
        made = mechanism
        if zone is not None:
            made = replace(mechanism, loading_zone_fraction=min(_MOST, zone * memory / max(1, arena)))
        try:
            check_fits(workload, cluster, made)
        except ShardTooLarge:
            room *= _SHRINK
            if cuts or not any(chosen.values()) or room < _SHRINK**_TRIES * memory:
                raise
            continue
        return World(workload, cluster, made, chosen)


def rival_world(
    jobs: Sequence[PaperJob],
    machine: Machine,
    *,
    num_devices: int | None = None,
    precision: Precision = "fp32",
    efficiency: Efficiency | None = None,
    num_shards: int = RIVAL_SHARDS,
) -> World:
    """Return jobs cut finely, for systems that make their own stages of the cuts or gather shard by shard."""

    counted = {}
    for model in dict.fromkeys(job.model for job in jobs):
        found = count_layers(model, precision)
        ends = {index * len(found.kernels) // num_shards for index in range(1, num_shards)}
        counted[model] = found.cut(sorted(ends - {0}))
    return World(_workload(jobs, counted, machine, precision, efficiency), machine.first(num_devices))


def largest_shard_fraction(world: World) -> float:
    """Return what the largest shard's parameters weigh, as a share of a device's memory."""
    largest = max(shard.parameter_bytes for job in world.workload.jobs for shard in job.shards)
    return largest / world.cluster.devices[0].memory_bytes


def _fitting_cuts(
    counted: Mapping[ModelSpec, CountedModel], room: float, copies: int
) -> dict[ModelSpec, tuple[int, ...]]:
    """Return even cuts into the fewest shards such that any one's blocks fit beside the activations of any other.

    room: what a device offers; copies: how many shards' blocks it must hold at once.
    """
    needs = {model: _needs(found, copies) for model, found in counted.items()}

    def layers_each(model: ModelSpec, peak: float) -> int:
        fitting = [n for n, (working, blocks) in needs[model].items() if working <= peak and blocks <= room - peak]
        return max(fitting, default=1)

    def num_shards(peak: float) -> int:
        return sum(-(-len(found.kernels) // layers_each(model, peak)) for model, found in counted.items())

    peak = min((room * step / _STEPS for step in range(1, _STEPS)), key=num_shards)
    return {model: even_cuts(len(found.kernels), layers_each(model, peak)) for model, found in counted.items()}


def _needs(counted: CountedModel, copies: int) -> dict[int, tuple[int, int]]:
    """Return, by layers a shard, the greatest activations and blocks of any shard."""
    layers = len(counted.kernels)
    found = {}
    for layers_each in range(1, layers + 1):
        shards = counted.shards(even_cuts(layers, layers_each))
        blocks = max(copies * shard.state_bytes + 3 * shard.output_bytes for shard in shards)
        found[layers_each] = max(shard.working_bytes for shard in shards), blocks
    return found


def _workload(
    jobs: Sequence[PaperJob],
    counted: dict[ModelSpec, CountedModel],
    machine: Machine,
    precision: Precision,
    efficiency: Efficiency | None,
) -> Workload:
    peak = "fp32" if precision == "fp32" else "fp16"
    roofline = Roofline.of(machine.accelerator, peak, efficiency or QUOTED[peak])
    of_models = {model: timed(Workload((c.job,)), c.counts, roofline).jobs[0] for model, c in counted.items()}
    return Workload(
        tuple(replace(of_models[job.model], name=job.name, minibatches=job.num_minibatches, epochs=1) for job in jobs)
    )
