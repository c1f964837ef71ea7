"""Tiny jobs with everything that makes exactness hard, and the reference's answer to each."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from executor import RunResult, TorchJob, randomness
from executor.compare_state import identical
from executor.reference import train_plain
from executor.reference_evaluation import evaluate_plain

VOCABULARY, LENGTH = 11, 6
Boundary = tuple[torch.Tensor, torch.Tensor, None]


class Tokens(Dataset):
    """Sequences with a target each. noisy: every item draws from all three global streams."""

    def __init__(self, count: int, noisy: bool = False) -> None:
        generator = torch.Generator().manual_seed(5)
        self._ids = torch.randint(0, VOCABULARY, (count, LENGTH), generator=generator)
        self._targets = torch.randint(0, VOCABULARY, (count,), generator=generator)
        self._noisy = noisy

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = self._ids[index]
        if self._noisy:
            shift = int(torch.randint(0, 3, ())) + int(numpy.random.randint(3)) + random.randrange(3)
            ids = (ids + shift) % VOCABULARY
        return ids, self._targets[index]


DATA: dict[str, Callable[[int], DataLoader]] = {
    "in order": lambda n: DataLoader(Tokens(n), batch_size=2),
    "shuffled": lambda n: DataLoader(Tokens(n), batch_size=2, shuffle=True),
    "own generator": lambda n: DataLoader(
        Tokens(n), batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(9)
    ),
    "a worker": lambda n: DataLoader(Tokens(n, noisy=True), batch_size=2, shuffle=True, num_workers=1),
    "noisy": lambda n: DataLoader(Tokens(n, noisy=True), batch_size=2),
}


class Embed(nn.Module):
    """Hands on activations, a tensor without gradient, and a None; `unused` never gets a gradient."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        self.unused = nn.Parameter(torch.randn(3))

    def forward(self, ids: torch.Tensor) -> Boundary:
        return self.tokens(ids) + self.places.weight, ids, None


class Block(nn.Module):
    """Attention and a feed-forward layer, each with norm, dropout and residual."""

    def __init__(self, width: int, dropout: float, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, boundary: Boundary) -> Boundary:
        x, ids, nothing = boundary
        batch, length, width = x.shape
        heads = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(*heads, dropout_p=rate, is_causal=True)
        x = x + functional.dropout(self.mix(mixed.transpose(1, 2).reshape(batch, length, width)), self.dropout)
        x = x + functional.dropout(self.narrow(functional.gelu(self.wide(self.norm2(x)))), self.dropout)
        return x, ids, nothing


class InPlace(nn.Module):
    """Overwrites its input."""

    def forward(self, boundary: Boundary) -> Boundary:
        x, ids, nothing = boundary
        return functional.relu_(x), ids, nothing


class Head(nn.Module):
    """Uses the boundary's integers; `scale` is frozen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)
        self.scale = nn.Parameter(torch.full((width,), 0.5), requires_grad=False)

    def forward(self, boundary: Boundary) -> torch.Tensor:
        x, ids, nothing = boundary
        assert nothing is None
        weight = 1.0 + ids.unsqueeze(-1) / VOCABULARY
        return self.out((self.norm(x) * self.scale * weight).mean(1))


def transformer(width: int = 16, dropout: float = 0.0, seed: int = 0) -> nn.Sequential:
    """Five layers; cut at (2,), a shard begins with the in-place layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            Embed(width), Block(width, dropout), InPlace(), Block(width, dropout, heads=4), Head(width)
        )


def perceptron(*widths: int, seed: int = 0) -> nn.Sequential:
    """Linear layers with tanh between them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pairs = list(zip(widths, widths[1:], strict=False))
        return nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairs))


def pairs(count: int, width: int = 4, out: int = 2, batch: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return mini-batches of floats, as a list."""
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(batch, width, generator=generator), torch.randn(batch, out, generator=generator))
        for _ in range(count)
    ]


def small_job(name: str = "A", steps: int = 2, model: Any = None, **fields: Any) -> TorchJob:
    """Return two linear layers to fit floats, in two shards unless told otherwise."""
    defaults: dict[str, Any] = {
        "loss_fn": functional.mse_loss,
        "dataloader": pairs(steps),
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.1),
        "cuts": (1,),
    }
    return TorchJob(name, perceptron(4, 8, 2) if model is None else model, **(defaults | fields))


Answer = tuple[dict[str, torch.Tensor], tuple[float, ...]]


def expected(job: TorchJob, dataloader: Any = None) -> Answer:
    """Train a copy of the job by the reference loop; return weights with optimizer state, losses and metrics.

    dataloader: another one of the same content, needed where using one up would spoil it for the job.
    """
    model, optimizer = copy.deepcopy((job.module, None))[0], job.optimizer
    if isinstance(optimizer, torch.optim.Optimizer):
        model, optimizer = copy.deepcopy((job.module, optimizer))
    data, evaluate_on = copy.deepcopy((job.dataloader, job.evaluate_on))
    data, metrics = data if dataloader is None else dataloader, list[float]()

    def evaluate(model: nn.Module) -> None:
        metrics.append(evaluate_plain(model, job.metric_fn, evaluate_on, autocast=job.autocast))

    with random_state_kept():
        numpy.random.seed(job.seed % 2**32)  # the reference leaves numpy's stream alone
        options = dict(vars(job.step_options))
        del options["scaling"], options["scale"]
        losses, trained = train_plain(
            model, job.loss_fn, data, optimizer, epochs=job.epochs, max_steps=job.max_steps, seed=job.seed,
            scheduler=job.scheduler, grad_scaler=copy.deepcopy(job.grad_scaler),
            evaluate=(lambda _: None) if evaluate_on is None else evaluate, **options,
        )  # fmt: skip
    state = {
        f"{name}:{key}": value
        for name, parameter in model.named_parameters()
        for key, value in trained.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }
    return {**dict(model.named_parameters()), **dict(model.named_buffers()), **state}, (*losses, *metrics)


def found(job: TorchJob, result: RunResult) -> Answer:
    """Return what a run made of the job, in the same form."""
    trained = result.jobs[job.name]
    state = {f"{n}:{key}": value for n, entry in trained.optimizer_state.items() for key, value in entry.items()}
    weights = {**dict(job.module.named_parameters()), **dict(job.module.named_buffers())}
    return {**weights, **state}, (*trained.losses, *trained.metrics)


def differences(job: TorchJob, result: RunResult, answer: Answer) -> list[str]:
    """Name everything in which a run differs from the reference; losses count bit by bit."""
    (tensors, losses), (wanted, wanted_losses) = found(job, result), answer
    bits = identical(
        {"losses": torch.tensor(losses, dtype=torch.float64)},
        {"losses": torch.tensor(wanted_losses, dtype=torch.float64)},
    )
    return [f"{job.name}: {name}" for name in identical(tensors, wanted) + bits]


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the global generators as they were."""
    before = randomness.save()
    try:
        yield
    finally:
        randomness.restore(before)
