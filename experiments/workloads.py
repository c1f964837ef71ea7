"""The jobs that the demo and the benchmarks train: byte-level GPTs on the standard library's text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from executor import TorchJob
from experiments.models import byte_gpt, next_byte_loss, text_loader

_CONTEXT = 64  # bytes
_BATCH_SIZE = 8
_DROPOUT = 0.1


@dataclass(frozen=True)
class GptSpec:
    """One job of a grid: its shape, its schedule and its learning rate."""

    name: str
    width: int
    depth: int
    num_heads: int
    minibatches: int
    epochs: int
    learning_rate: float


DEMO = (
    GptSpec("medium", 192, 6, 6, minibatches=36, epochs=1, learning_rate=1e-3),
    GptSpec("wide-shallow", 256, 4, 8, minibatches=18, epochs=2, learning_rate=2e-3),
    GptSpec("narrow-deep", 128, 8, 4, minibatches=16, epochs=3, learning_rate=2e-3),
    GptSpec("wide-deep", 256, 8, 8, minibatches=24, epochs=2, learning_rate=1e-3),
    GptSpec("small", 192, 4, 6, minibatches=32, epochs=1, learning_rate=3e-3),
)
# The same models for a few steps, for CI.
DEMO_SMOKE = tuple(GptSpec(**{**vars(spec), "minibatches": 3, "epochs": 1}) for spec in DEMO)
# Three models small enough for tests.
TINY = (
    GptSpec("A", 64, 8, 2, minibatches=2, epochs=2, learning_rate=1e-3),
    GptSpec("B", 32, 4, 2, minibatches=3, epochs=1, learning_rate=1e-2),
    GptSpec("C", 64, 4, 2, minibatches=2, epochs=1, learning_rate=1e-3),
)
WORKLOADS = {"demo": DEMO, "demo-smoke": DEMO_SMOKE, "tiny": TINY}


def gpt_jobs(specs: tuple[GptSpec, ...]) -> list[TorchJob]:
    """Build the jobs; the same specs give the same bits in every process."""
    return [
        TorchJob(
            spec.name,
            byte_gpt(spec.width, spec.depth, spec.num_heads, context=_CONTEXT, dropout=_DROPOUT, seed=100 + index),
            next_byte_loss,
            text_loader(spec.minibatches, _BATCH_SIZE, _CONTEXT),
            partial(torch.optim.AdamW, lr=spec.learning_rate),
            epochs=spec.epochs,
            seed=index,
        )
        for index, spec in enumerate(specs)
    ]


def demo_jobs() -> list[TorchJob]:
    """Return the demo's five jobs, for the command line: experiments/workloads.py:demo_jobs."""
    return gpt_jobs(DEMO)


def smoke_jobs() -> list[TorchJob]:
    """Return the demo's models for three mini-batches each."""
    return gpt_jobs(DEMO_SMOKE)
