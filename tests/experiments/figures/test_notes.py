"""Notes of figures say what the published tables say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.experiment import read_frame
from experiments.figures import figure, figure_names, note

RESULTS = Path(__file__).parents[3] / "results"


@pytest.mark.parametrize("name", figure_names())
def test_the_published_note_is_that_of_the_published_table(name):
    module = figure(name)
    published = json.loads((RESULTS / name / "run.json").read_text())
    assert published["note"] == note(module, read_frame(module, RESULTS / name))
