"""What all contenders train: byte-level GPTs without dropout, in a fixed order of mini-batches, and by which optimizer.

Without dropout a mini-batch means the same however it is split. Every run goes over the first mini-batches again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from executor import TorchJob
from experiments.models import VOCABULARY, Windows, byte_gpt, next_byte_loss, standard_library_text
from experiments.workloads import GptSpec
from hydrasim.errors import HydraError

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
# foreach and fused AdamW are different kernels with different bits, so a flavour names its own.
OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": partial(torch.optim.AdamW, lr=1e-3, foreach=True),
    "adamw-fused": partial(torch.optim.AdamW, lr=1e-3, fused=True),
    "sgd": partial(torch.optim.SGD, lr=0.05, foreach=True),
}
_STATE_COPIES = {"adamw": 4, "adamw-fused": 4, "sgd": 2}  # weights and gradients, and AdamW's two moments
_FLOPS_PER_WEIGHT = 6  # of a token, forward and backward


@dataclass(frozen=True)
class PeerWorkload:
    """Models to train together, and in how much memory ours may.

    specs: of the jobs; their mini-batches are those of one timed run. budget_fraction: state in a device's arena over
    the largest model's whole state. num_checked: mini-batches of each job whose losses are compared; they warm up.
    rivals: who takes part by default, beside ours. most_rivals: at a time, since all of them stay in memory, None for
    all. is_simulated: whether the race is also simulated.
    """

    name: str
    specs: tuple[GptSpec, ...]
    rivals: tuple[str, ...]
    context: int = 128
    batch_size: int = 8
    budget_fraction: float = 0.5
    num_checked: int = 6
    most_rivals: int | None = None
    is_simulated: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens of one timed run, over all models."""
        return self.batch_size * self.context * sum(spec.minibatches for spec in self.specs)

    @property
    def minibatches(self) -> dict[str, int]:
        """Mini-batches of one timed run, by job."""
        return {spec.name: spec.minibatches for spec in self.specs}

    def model(self, spec: GptSpec) -> nn.Sequential:
        """Build a job's model; the same bits in every process."""
        seed = 100 + self.specs.index(spec)
        return byte_gpt(spec.width, spec.depth, spec.num_heads, context=self.context, dropout=0.0, seed=seed)

    def loader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the mini-batches in the order in which every run goes over them; no random stream is drawn from."""
        count = max([self.num_checked, *self.minibatches.values()]) * self.batch_size
        return DataLoader(Windows(standard_library_text(), count, self.context), batch_size=self.batch_size)

    def job(self, spec: GptSpec, optimizer: str) -> TorchJob:
        """Return a job as the executor takes it."""
        made, loader = OPTIMIZERS[optimizer], self.loader()
        return TorchJob(spec.name, self.model(spec), next_byte_loss, loader, made, max_steps=self.num_checked)

    def state_bytes(self, optimizer: str) -> int:
        """Return the largest model's weights, gradients and optimizer state."""
        return 4 * _STATE_COPIES[optimizer] * max(map(self.num_weights, self.specs))

    def num_weights(self, spec: GptSpec) -> int:
        """Return the number of a model's parameters, as `byte_gpt` makes them."""
        width, block = spec.width, 12 * spec.width**2 + 13 * spec.width
        ends = (VOCABULARY + self.context) * width + 2 * width + VOCABULARY * (width + 1)
        return spec.depth * block + ends

    def work(self, spec: GptSpec) -> int:
        """Return roughly what a timed run of a job computes, to deal jobs out by, longest first."""
        return _FLOPS_PER_WEIGHT * self.num_weights(spec) * spec.minibatches


def find_workload(name: str, *, smoke: bool = False) -> PeerWorkload:
    """Return a workload by its name, or its tiny version.

    Raises:
        HydraError: there is none of that name.
    """
    if name not in WORKLOADS:
        raise HydraError(f"no workload is named {name!r}; there are {', '.join(WORKLOADS)}, or all.")
    return _tiny(WORKLOADS[name]) if smoke else WORKLOADS[name]


def _tiny(workload: PeerWorkload) -> PeerWorkload:
    """Return the workload with every model narrow and shallow, so that a run takes less than a second."""
    specs = tuple(
        replace(
            spec,
            width=max(32, spec.width // 6 // 16 * 16),
            depth=max(4, spec.depth // 2),
            num_heads=2,
            minibatches=min(3, spec.minibatches),
        )
        for spec in workload.specs
    )
    return replace(workload, specs=specs, context=32, batch_size=8, num_checked=3)


def _gpt(name: str, width: int, depth: int, minibatches: int) -> GptSpec:
    return GptSpec(name, width, depth, width // 64, minibatches, 1, 1e-3)


_PEERS = ("ideal", "gpipe", "gpipe-equal-memory", "1f1b", "ddp", "fsdp2-offload", "zero3-offload")
_SIMULATED = ("gpipe", "1f1b", "ddp", "fsdp2-offload", "zero3-offload")
_EQUAL = tuple(_gpt(name, 384, 8, 6) for name in "ABCD")
# Three long jobs and two short ones, the long ones first: however whole jobs are dealt, one of two devices idles.
_UNEQUAL = (
    _gpt("A", 512, 6, 3),
    _gpt("B", 384, 8, 4),
    _gpt("C", 384, 12, 3),
    _gpt("D", 384, 4, 1),
    _gpt("E", 256, 4, 2),
)
_SMALL = tuple(_gpt(name, 128, 4, 24) for name in "ABCD")
WORKLOADS = {
    workload.name: workload
    for workload in (
        PeerWorkload("W", _EQUAL, _PEERS, is_simulated=True),
        PeerWorkload("W-het", _UNEQUAL, (*_PEERS, "task-parallel-spilling"), most_rivals=4, is_simulated=True),
        # An arena of twice a model's state: the partitioner gives a unit half of it, to load the next one meanwhile.
        PeerWorkload("W-fits", _EQUAL, ("ideal", "gpipe", "1f1b", "ddp"), budget_fraction=2.0),
        PeerWorkload("W-small", _SMALL, _SIMULATED, context=64, is_simulated=True),
    )
}
