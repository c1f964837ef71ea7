"""The plain loop is what a user would write."""

from __future__ import annotations

import torch
from torch.nn import functional

from executor.reference import train_plain
from tests.executor.worlds import pairs, perceptron, random_state_kept


def test_it_does_what_the_textbook_says():
    model, other, data = perceptron(4, 2), perceptron(4, 2), pairs(3)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    wanted = []
    for inputs, targets in data * 2:
        loss = functional.mse_loss(other(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    with random_state_kept():
        losses, _ = train_plain(model, functional.mse_loss, data, lambda p: torch.optim.SGD(p, lr=0.1), epochs=2)
    assert losses == wanted
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_it_stops_after_max_steps_and_takes_an_optimizer_as_it_is():
    model = perceptron(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with random_state_kept():
        losses, same = train_plain(model, functional.mse_loss, pairs(3), optimizer, epochs=5, max_steps=4)
    assert len(losses) == 4
    assert same is optimizer


def test_the_seed_fixes_dropout():
    def run(seed):
        model = torch.nn.Sequential(perceptron(4, 2), torch.nn.Dropout(0.5))
        with random_state_kept():
            return train_plain(model, functional.mse_loss, pairs(2), lambda p: torch.optim.SGD(p, lr=0.1), seed=seed)[0]

    assert run(1) == run(1) != run(2)
