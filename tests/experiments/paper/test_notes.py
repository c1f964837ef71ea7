"""Notes of the paper's figures say what the published tables say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.experiment import read_frame
from experiments.figures import figure, note

RESULTS = Path(__file__).parents[3] / "results"
NAMES = (
    "end-to-end", "num-gpus", "num-models", "model-scale", "ablation", "mechanisms", "precision", "loading-zone",
    "largest-model",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_published_note_is_that_of_the_published_table(name):
    module = figure(name)
    published = json.loads((RESULTS / name / "run.json").read_text())
    assert published["note"] == note(module, read_frame(module, RESULTS / name))
