"""Live bytes are counted as storages come and go."""

from __future__ import annotations

import pytest
import torch

from executor.budget import BudgetTracker
from executor.errors import BudgetExceeded


def test_bytes_are_counted_while_they_live():
    with BudgetTracker() as tracker:
        a = torch.ones(100)
        b = a * 2
        assert tracker.live_bytes == 800
        del a
        assert tracker.live_bytes == 400
        del b
    assert (tracker.live_bytes, tracker.peak_bytes) == (0, 800)


def test_views_and_work_in_place_cost_nothing():
    with BudgetTracker() as tracker:
        a = torch.ones(100)
        views = [a.view(10, 10), a[:50], a.t() if a.ndim == 2 else a, a.mul_(2)]
        assert tracker.live_bytes == 400
        del views


def test_a_view_keeps_its_storage_counted():
    with BudgetTracker() as tracker:
        a = torch.ones(100)[:1]
        assert tracker.live_bytes == 400
        del a
        assert tracker.live_bytes == 0


def test_what_autograd_saves_is_counted_until_backward():
    weight = torch.ones(100, requires_grad=True)
    with BudgetTracker() as tracker:
        loss = (weight.exp() * 2).sum()
        kept = tracker.live_bytes
        loss.backward()
        assert kept >= 400
        assert tracker.live_bytes < kept + 400  # exp's result is gone, the gradient is there
        weight.grad = None


def test_exempt_storages_do_not_count():
    arena = torch.zeros(1000)
    tracker = BudgetTracker(limit_bytes=500)
    tracker.exempt(arena)
    with tracker:
        assert arena[:10].view(2, 5) is not None
        made = torch.ones(50)
        assert tracker.live_bytes == 200
        tracker.exempt([made, None, 3])
        assert tracker.live_bytes == 0


def test_exceeding_the_limit_raises_with_both_numbers():
    with BudgetTracker(limit_bytes=1000), pytest.raises(BudgetExceeded, match=r"came to 1,200 bytes.*is 1,000"):
        torch.ones(300)


def test_after_an_excess_the_count_is_right_again():
    with BudgetTracker(limit_bytes=1000) as tracker:
        with pytest.raises(BudgetExceeded):
            torch.ones(300)
        assert tracker.live_bytes == 0
        assert torch.ones(200).sum() == 200


def test_the_peak_starts_anew_when_told():
    with BudgetTracker() as tracker:
        torch.ones(1000)
        tracker.reset_peak()
        assert tracker.peak_bytes == 0


def test_a_sparse_gradient_counts_with_its_indices():
    table = torch.nn.Embedding(100, 4, sparse=True)
    with BudgetTracker() as tracker:
        table(torch.tensor([3, 5])).sum().backward()
        assert tracker.live_bytes >= 2 * 4 * 4
        table.weight.grad = None
    assert tracker.live_bytes == 0
