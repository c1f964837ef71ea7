"""What the shards of the paper's models run and weigh, counted without memory for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

from hydrasim.errors import HydraError
from hydrasim.roofline import Counts, Kernel, ShardKernels
from hydrasim.workload import Shard, TrainingJob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from executor.job import TorchJob

Family = Literal["bert", "vit", "gpt2", "gptj", "transformer"]
Precision = Literal[
    "fp32", "fp16", "autocast"
]  # autocast: fp32 weights and gradients, fp16 in between, as Hydra's code

_BERT_LENGTH, _GPT2_CONTEXT = 129, 512  # tokens: 128 and a class token; what the GPT-2 scripts set
_SCALING_CONTEXT = 1024


@dataclass(frozen=True)
class ModelSpec:
    """One of the paper's models at a mini-batch size.

    size: of a vit its label, such as "600M"; of a transformer its parameters; of gpt2 a number of blocks for a stack of
    them in full context, or "xl"; of gptj a number of blocks, or "6b"; of bert "large*".
    """

    family: Family
    size: str
    batch_size: int


@dataclass(frozen=True)
class CountedModel:
    """A model in cuts: its job, without seconds and of one mini-batch, and what its shards run."""

    job: TrainingJob
    kernels: tuple[ShardKernels, ...]

    @property
    def counts(self) -> Counts:
        """Return what the shards run, by job and shard."""
        return {(self.job.name, shard): kernels for shard, kernels in enumerate(self.kernels)}

    def cut(self, cuts: Sequence[int]) -> CountedModel:
        """Return the model with its shards joined, but for these that begin one.

        All adds up but what a unit needs at most: while a layer goes backward, what those before it left is there, and
        the gradients of those after it. Counting joined layers gives the same but for that need: ours is up to 2 %
        less, and 12 % (4 MiB) for a shard of no more than a Linear and its GELU.
        """
        kernels = tuple(_after_another(self.kernels[part]) for part in self._parts(cuts))
        return CountedModel(replace(self.job, shards=self.shards(cuts)), kernels)

    def shards(self, cuts: Sequence[int]) -> tuple[Shard, ...]:
        """Return what the shards of a cut weigh."""
        return tuple(_joined(self.job.shards[part]) for part in self._parts(cuts))

    def _parts(self, cuts: Sequence[int]) -> list[slice]:
        return [slice(*ends) for ends in pairwise([0, *cuts, len(self.kernels)])]


@cache
def count_layers(spec: ModelSpec, precision: Precision) -> CountedModel:
    """Count a model layer by layer; layers that are alike are counted once."""
    import torch

    from executor.analytic import AnalyticPilot, counted

    with torch.device("meta"):
        torch_job = _torch_job(spec)
    pilot = AnalyticPilot(torch_job, "fp32" if precision == "fp32" else "fp16")
    workload, counts = counted([pilot], [tuple(range(1, len(torch_job.layers)))])
    job = workload.jobs[0]
    kernels = tuple(counts[job.name, layer] for layer in range(len(job.shards)))
    if precision == "autocast":
        job = replace(job, shards=tuple(_in_fp32(shard) for shard in job.shards))
        kernels = tuple(_casting(run, shard) for run, shard in zip(kernels, job.shards, strict=True))
    return CountedModel(job, kernels)


def even_cuts(layers: int, layers_each: int) -> tuple[int, ...]:
    """Return cuts into shards of so many layers each."""
    return tuple(range(layers_each, layers, layers_each))


def _joined(layers: Sequence[Shard]) -> Shard:
    left_bytes, gradient_bytes, peak_bytes = 0, sum(layer.parameter_bytes for layer in layers), 0
    for layer in layers:
        gradient_bytes -= layer.parameter_bytes
        peak_bytes = max(peak_bytes, left_bytes + layer.working_bytes + gradient_bytes)
        left_bytes += layer.activation_bytes
    return Shard(
        0.0, 0.0,
        parameter_bytes=sum(layer.parameter_bytes for layer in layers),
        optimizer_bytes=sum(layer.optimizer_bytes for layer in layers),
        output_bytes=layers[-1].output_bytes,
        working_bytes=peak_bytes,
        activation_bytes=left_bytes,
    )  # fmt: skip


def _after_another(layers: Sequence[ShardKernels]) -> ShardKernels:
    """Return what layers run as one shard: there in order, back from the last to the first, one update of all."""
    updates = [kernel for layer in layers for kernel in layer.update]
    update = Kernel(sum(kernel.flops for kernel in updates), sum(kernel.nbytes for kernel in updates))
    return ShardKernels(
        tuple(kernel for layer in layers for kernel in layer.forward),
        tuple(kernel for layer in reversed(layers) for kernel in layer.backward),
        (update,),
    )


def _in_fp32(shard: Shard) -> Shard:
    """Have a shard that was counted in fp16 hold parameters, gradients and optimizer state in fp32."""
    return replace(
        shard,
        parameter_bytes=2 * shard.parameter_bytes,
        optimizer_bytes=2 * shard.optimizer_bytes,
        working_bytes=shard.working_bytes + shard.parameter_bytes,
    )


def _casting(run: ShardKernels, shard: Shard) -> ShardKernels:
    """Cast weights to fp16 before each pass, as autocast does, and update them in fp32."""
    cast = Kernel(0, shard.parameter_bytes * 3 // 2)  # reads four bytes an element, writes two
    update = tuple(Kernel(kernel.flops, 2 * kernel.nbytes) for kernel in run.update)
    return ShardKernels((cast, *run.forward), (cast, *run.backward), update)


def _torch_job(spec: ModelSpec) -> TorchJob:
    """Return the model with a mini-batch of its data's shape; runs under the meta device."""
    import torch
    from torch.nn import functional

    from executor.job import TorchJob
    from experiments.paper import models

    def token_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(output.reshape(-1, output.shape[-1]), target.reshape(-1))

    batch = spec.batch_size
    tokens = partial(torch.zeros, dtype=torch.long)
    if spec.family in ("bert", "transformer"):
        layers = models.bert_large_star() if spec.family == "bert" else models.transformer(float(spec.size))
        data = tokens(_BERT_LENGTH, batch), tokens(_BERT_LENGTH, batch)
    elif spec.family == "vit":
        layers = models.vit_star(spec.size)
        data = torch.zeros(batch, 3, 32, 32), tokens(batch)
    elif spec.family == "gpt2":
        context = _GPT2_CONTEXT if spec.size == "xl" else _SCALING_CONTEXT
        layers = models.gpt2_xl(48 if spec.size == "xl" else int(spec.size), context)
        data = tokens(batch, context), tokens(batch, context)
    elif spec.family == "gptj":
        layers = models.gptj(28 if spec.size == "6b" else int(spec.size), _GPT2_CONTEXT)
        data = tokens(batch, _GPT2_CONTEXT), tokens(batch, _GPT2_CONTEXT)
    else:
        raise HydraError(f"model family is {spec.family!r}; it is one of {', '.join(get_args(Family))}.")
    return TorchJob("model", layers, token_loss, [data], partial(torch.optim.SGD, lr=0.1))
