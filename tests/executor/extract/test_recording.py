"""What a run of a model shows."""

from __future__ import annotations

import torch

from executor.extract.pieces import find_pieces
from executor.extract.recording import record
from tests.executor.extract import models


def test_calls_and_what_they_need():
    model = models.Glue()
    found = record(model, find_pieces(model), torch.randn(5, models.WIDTH))
    assert found.calls == ["entry", "blocks.0", "blocks.1", "blocks.2", "head"]
    first, late = (("parameter", id(parameter)) for parameter in (model.first, model.late))
    assert found.needs[0] == {("input", 0)}
    assert found.needs[1] == {(0, 0), first}
    assert found.needs[2:4] == [{(1, 0)}, {(2, 0)}]
    assert found.needs[4] == {(0, 0), (3, 0), late}
    assert found.needs[5] == {(4, 0), ("input", 0)}
    assert found.needed_from(4) == {(0, 0), (3, 0), (4, 0), ("input", 0), late}
    assert found.spans == []
    assert found.parameters(1, 4) == {id(model.first)}
    assert found.parameters(4, 5) == {id(model.late)}


def test_children_of_pieces_that_code_looks_at():
    model = models.Peeks()
    assert record(model, find_pieces(model), torch.randn(5, models.WIDTH)).inspected == {"blocks.0"}


def test_what_several_calls_need_of_what_is_computed_between_them():
    model = models.Residual()
    found = record(model, find_pieces(model), torch.randn(5, models.WIDTH))
    # x0, for block0 (1), is in x1 = x0 + block0, for block1 (2), and so on to the head (4)
    assert found.spans == [(1, 4), (2, 4), (3, 4)]
