"""The table of public classes: a row is proven, trained and compared, or says why not."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from experiments.extraction import Row, try_case, write_report
from experiments.extraction_models import Case, cases, class_loss, images


@pytest.fixture(scope="module")
def row() -> Row:
    return try_case("vit", dict(cases())["vit"])


def test_a_class_is_proven_and_trained_in_shards_to_the_same_bits(row):
    assert (row.model, row.proven, row.identical, row.error) == ("ViTForImageClassification", True, True, "")
    assert row.num_shards > 1
    assert row.result == f"byte-identical, {row.num_shards} shards"


def test_what_is_refused_says_why():
    def refused() -> Case:
        return Case(nn.Sequential(nn.Flatten(), nn.Linear(5, 3)), images(), class_loss)

    row = try_case("wrong", refused)
    assert not row.proven
    assert row.result.startswith("Sequential could not be taken apart: RuntimeError: mat1 and mat2 shapes")


def test_every_case_takes_ten_lines_at_most_and_there_are_ten_at_least(row, tmp_path):
    assert len(list(cases())) >= 10
    found = write_report([row], tmp_path, "a command")
    assert found["num_trained_identical"] == 1
    assert json.loads((tmp_path / "summary.json").read_text())["rows"][0]["model"] == row.model
    text = (tmp_path / "report.md").read_text()
    assert "`a command`" in text
    assert f"| ViTForImageClassification | {row.lines} |" in text
    assert torch.__version__ in text
