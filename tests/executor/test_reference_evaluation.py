"""The plain evaluation is what a user would write."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor.reference import train_plain
from executor.reference_evaluation import evaluate_plain
from tests.executor.worlds import pairs, perceptron, random_state_kept


def test_it_is_the_mean_over_samples_in_evaluation_mode():
    model, data = nn.Sequential(perceptron(4, 2), nn.Dropout(0.5)), [*pairs(2, batch=4), *pairs(1, batch=1)]
    model.eval()
    with torch.no_grad():
        losses = [functional.mse_loss(model(inputs), targets).item() for inputs, targets in data]
    model.train()
    wanted = (4 * losses[0] + 4 * losses[1] + losses[2]) / 9
    assert evaluate_plain(model, functional.mse_loss, data) == pytest.approx(wanted, rel=1e-15)
    assert all(module.training for module in model.modules())


def test_the_plain_loop_evaluates_after_each_epoch_and_after_one_cut_short():
    model, counts = perceptron(4, 2), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with random_state_kept():
        train_plain(
            model, functional.mse_loss, pairs(3), optimizer, epochs=9, max_steps=7,
            evaluate=lambda trained: counts.append(trained is model),
        )  # fmt: skip
    assert counts == [True] * 3
