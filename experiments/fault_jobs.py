"""What the campaign of faults trains: a job for each way in which state, data and steps are handled."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from executor import TorchJob

NAMES = "ABCD"
_WIDTH, _BATCH, _MINIBATCHES = 48, 64, 12


def jobs() -> list[TorchJob]:
    """Return jobs with dropout, clipping, evaluation and updates in host memory, the same at every call."""
    return [
        _job("A", 10, dropout=0.1),
        _job("B", 3, clip_norm=0.5),
        _job("C", 10, epochs=2, evaluates=True),
        _job("D", 8, update_on="host"),
    ]


def _job(name: str, depth: int, *, dropout: float = 0.0, evaluates: bool = False, **fields: object) -> TorchJob:
    seed = ord(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        block = [nn.Linear(_WIDTH, 2 * _WIDTH), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * _WIDTH, _WIDTH)]
        layers = [nn.Sequential(*block), *(nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.Tanh()) for _ in range(depth))]
        inputs, targets = torch.randn(_MINIBATCHES * _BATCH, _WIDTH), torch.randn(_MINIBATCHES * _BATCH, _WIDTH)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=_BATCH, shuffle=True)
    return TorchJob(
        name,
        nn.Sequential(*layers),
        functional.mse_loss,
        loader,
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        seed=seed,
        evaluate_on=DataLoader(TensorDataset(inputs[:16], targets[:16]), batch_size=_BATCH) if evaluates else None,
        **fields,  # type: ignore[arg-type]
    )
