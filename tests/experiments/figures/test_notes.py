"""Notes of figures say what the published tables say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.experiment import read_frame
from experiments.figures import figure, note

RESULTS = Path(__file__).parents[3] / "results"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("*/run.json")))
def test_the_published_note_is_that_of_the_published_table(name):
    module = figure(name)
    published = json.loads((RESULTS / name / "run.json").read_text())
    assert published["note"] == note(module, read_frame(module, RESULTS / name))
