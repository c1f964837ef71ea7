"""What a device worker takes from the operating system, beside what its budget says."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from executor import CpuDevice, DevicePool, TorchJob, prepare, train
from executor.pilot import JobPilot
from experiments.bisection import smallest_memory
from experiments.models import byte_gpt, next_byte_loss, text_loader

_HEADROOM = 1.05
_SAMPLE_S = 0.002


def outside_peak_fractions() -> dict[str, float]:
    """Return, for a few models, a worker's anonymous memory above its base at its peak, over its budget.

    The base is a worker's that has run a tiny job. Above 1 is what operators allocate within themselves
    and what the allocator loses to fragments; the budget counts neither.
    """
    return {job.name: _outside(job) for job in _jobs()}


def _outside(job: TorchJob) -> float:
    pilot = JobPilot(job)
    least = smallest_memory(lambda nbytes: prepare([job], [CpuDevice(nbytes)], pilots=[pilot]))
    device = CpuDevice(int(_HEADROOM * least))
    prepared = prepare([job], [device], pilots=[pilot])
    with DevicePool([device]) as pool:
        train(prepare([_tiny()], [device]), pool=pool, strict=True)
        pid = pool.workers[0].pid
        base, samples, done = anonymous_bytes(pid), [0], threading.Event()

        def sample() -> None:
            while not done.wait(_SAMPLE_S):
                samples.append(anonymous_bytes(pid))

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        try:
            train(prepared, pool=pool, update_models=False, strict=True)
        finally:
            done.set()
            sampler.join()
    return (max(samples) - base) / device.memory_bytes


def anonymous_bytes(pid: int) -> int:
    """Return a process's memory that is no file: heap and arena, not the shared host store."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def _tiny() -> TorchJob:
    return TorchJob("tiny", nn.Sequential(nn.Linear(4, 4)), functional.mse_loss, _pairs((3, 4), (3, 4)), _adamw)


def _jobs() -> list[TorchJob]:
    dense = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(1024, 1024), nn.GELU())))
    image = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16 * 16, 10),
    )  # fmt: skip
    gpt = byte_gpt(256, 4, 4, context=128, dropout=0.1, seed=0)
    return [
        TorchJob("dense", dense, functional.mse_loss, _pairs((512, 1024), (512, 1024)), _adamw),
        TorchJob("image", image, functional.mse_loss, _pairs((32, 3, 32, 32), (32, 10)), _adamw),
        TorchJob("gpt", gpt, next_byte_loss, text_loader(3, 8, 128), _adamw),
    ]


def _adamw(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


def _pairs(inputs: tuple[int, ...], targets: tuple[int, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(inputs), torch.randn(targets)) for _ in range(3)]
