"""A grid makes a job for every combination, each under a name that says which."""

from __future__ import annotations

import pytest
import torch

from executor import grid
from executor.errors import JobError
from tests.executor.worlds import small_job


def make(name, lr, optimizer):
    return small_job(name, optimizer=lambda parameters: optimizer(parameters, lr=lr))


def test_every_combination_is_a_job():
    jobs = grid(make, {"optimizer": [torch.optim.SGD, torch.optim.AdamW], "lr": [0.1, 1e-05]}, name="net")
    assert [job.name for job in jobs] == [
        "net-optimizerSGD-lr0.1", "net-optimizerSGD-lr1e-05", "net-optimizerAdamW-lr0.1", "net-optimizerAdamW-lr1e-05",
    ]  # fmt: skip
    assert [job.whole_optimizer.defaults["lr"] for job in jobs] == [0.1, 1e-05] * 2


def test_values_of_any_kind_make_names_that_jobs_may_have():
    jobs = grid(lambda name, betas: small_job(name), {"betas": [(0.9, 0.99), (0.8, 0.9)]})
    assert [job.name for job in jobs] == ["betas_0.9_0.99_", "betas_0.8_0.9_"]


def test_a_grid_that_makes_no_sense_is_refused():
    with pytest.raises(JobError, match="lr has no values"):
        grid(make, {"lr": [], "optimizer": [torch.optim.SGD]})
    with pytest.raises(JobError, match="two combinations are named 'lr0.1-optimizerSGD'"):
        grid(make, {"lr": [0.1, 0.1], "optimizer": [torch.optim.SGD]})
