"""What figures with simulated rivals carry comes from the races, and names what was not raced."""

from __future__ import annotations

import json

import pytest

from experiments.caution import caution
from experiments.experiment import draw, make
from experiments.figures import figure, figure_names
from experiments.peers.registry import rival_names


def test_it_tells_how_far_each_rivals_simulation_was_off(tmp_path):
    races = tmp_path / "summary.json"
    races.write_text(
        json.dumps({"simulation": {"gpipe": {"low": 1.1, "high": 1.2}, "ddp": {"low": 1.06, "high": 1.06}}})
    )
    told = caution(["gpipe", "ddp", "fsdp2-offload"], races)
    assert "gpipe 1.10 to 1.20, ddp 1.06, fsdp2-offload not raced." in told
    assert caution([], races) == ""
    assert "gpipe not raced" in caution(["gpipe"], tmp_path / "none.json")


@pytest.mark.parametrize("name", figure_names())
def test_figures_name_rivals_as_races_do(name):
    assert set(figure(name).ABOUT.rivals) <= set(rival_names())


def test_a_picture_carries_it(tmp_path, monkeypatch):
    module = figure("precision")
    make("precision", module, tmp_path, smoke=True)
    pictures = []
    for text in ("", "gpipe 9.99"):
        monkeypatch.setattr("experiments.experiment.caution", lambda rivals, text=text: text)
        draw(module, tmp_path)
        pictures.append((tmp_path / "figure.png").read_bytes())
    assert pictures[0] != pictures[1]
