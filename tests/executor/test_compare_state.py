"""The comparison that decides "exact" must see the smallest change."""

from __future__ import annotations

import pytest
import torch

from executor.compare_state import identical


def test_equal_bytes_are_identical_even_as_nan_and_in_another_layout():
    a = {"w": torch.tensor([[1.0, float("nan")], [0.0, 2.0]])}
    assert identical(a, {"w": a["w"].clone()}) == []
    assert identical(a, {"w": a["w"].t().contiguous().t()}) == []


def test_one_ulp_in_one_weight_is_found():
    a = {"v": torch.ones(3), "w": torch.ones(4, 5)}
    b = {name: tensor.clone() for name, tensor in a.items()}
    b["w"][2, 3] = torch.nextafter(b["w"][2, 3], torch.tensor(2.0))
    assert identical(a, b) == ["w"]


@pytest.mark.parametrize(
    "other",
    [torch.tensor([-0.0]), torch.tensor([0.0], dtype=torch.float64), torch.tensor([[0.0]]), torch.tensor(0.0)],
    ids=["sign of zero", "dtype", "shape", "dimensions"],
)
def test_what_compares_equal_as_a_number_may_still_differ(other):
    assert identical({"w": torch.tensor([0.0])}, {"w": other}) == ["w"]


def test_a_name_on_one_side_only_differs():
    one = torch.ones(1)
    assert identical({"a": one, "b": one}, {"b": one, "c": one}) == ["a", "c"]


def test_scalars_and_small_types_are_compared():
    a = {"step": torch.tensor(3.0), "flag": torch.tensor(True), "half": torch.ones(2, dtype=torch.bfloat16)}
    assert identical(a, {name: tensor.clone() for name, tensor in a.items()}) == []
    assert identical(a, a | {"step": torch.tensor(4.0)}) == ["step"]
