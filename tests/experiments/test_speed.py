"""The executor's speed beside the ideal: the command, and what its figures follow from."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from experiments.speed import main, report_text, summary


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(main)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def record(**contenders: dict[str, object]) -> dict[str, object]:
    return {
        "workload": "W",
        "optimizer": "sgd",
        "contenders": contenders,
        "provenance": {"cpu": "some", "measured_at": "today"},
    }


def ratio(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value, "num_pairs": 3}


def test_figures_follow_from_the_races_alone():
    found = summary(
        [
            record(
                ours={"facts": {"orchestration_fraction": 0.02}},
                ideal={"ratio": ratio(0.9)},
                **{
                    "ours-alone": {
                        "ratio": ratio(1.8), "seconds": [2.0, 4.0, 2.0], "facts": {"orchestration_fraction": 0.01},
                    },
                    "ours-host-updates": {"ratio": ratio(1.1)},
                    "ours-searched": {"ratio": ratio(0.8)},
                    "ours-searched-alone": {"seconds": [1.0, 2.0, 1.0]},
                    "ideal-alone": {"seconds": [1.0, 2.0, 2.0]},
                },
            )
        ],
        "speed",
    )  # fmt: skip
    assert found["ratio_to_ideal"] == {"sgd": {"W": ratio(0.9)}}
    assert found["scaling_1_to_2"] == {"sgd": ratio(1.8)}
    assert found["device_over_host_updates"] == {"sgd": ratio(1.1)}
    assert found["search_over_greedy"] == {"sgd": ratio(1.25)}
    assert found["search_over_greedy_alone"]["sgd"]["value"] == 2.0
    assert found["alone_ratio_to_ideal"]["sgd"]["value"] == 0.5
    assert found["orchestration_fraction"] == {"sgd": {"W, two devices": 0.02, "W, one device": 0.01}}
    page = report_text(found)
    assert "| two devices over one, W | sgd | **1.800** | 1.800 to 1.800 | 3 | 1.9 |" in page
    assert "| orchestration, W, one device | sgd | 1.00 % |" in page


def test_races_without_a_search_count_all_the_same():
    found = summary([record(ours={"facts": {"orchestration_fraction": 0.02}}, ideal={"ratio": ratio(0.9)})], "speed")
    assert found["search_over_greedy"] == found["search_over_greedy_alone"] == {}
    assert "searched" not in report_text(found)


def test_a_mistake_is_told_before_anything_runs(command, tmp_path):
    for arguments in (("--workload", "V"), ("--optimizer", "adam")):
        found = command(*arguments, "-o", str(tmp_path / "out"))
        assert found.exit_code == 2
        assert "is unknown; there are" in found.output


def test_one_command_races_and_reports(command, tmp_path):
    found = command("--smoke", "--workload", "W", "--optimizer", "sgd", "-o", str(tmp_path))
    assert found.exit_code == 0, found.output
    written = json.loads((tmp_path / "summary.json").read_text())
    for name in ("alone_ratio_to_ideal", "scaling_1_to_2"):
        assert written[name]["sgd"]["value"] > 0
    assert written["ratio_to_ideal"]["sgd"]["W"]["num_pairs"] == 1
    assert 0 < written["orchestration_fraction"]["sgd"]["W, one device"] < 1
    assert (tmp_path / "report.md").exists()
