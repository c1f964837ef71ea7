"""Figures follow from the races' files alone."""

from __future__ import annotations

import json

import pytest

from experiments.peers.contender import Task
from experiments.peers.race import Entry
from experiments.peers.record import read_records, record_of, summary, write_record
from experiments.peers.registry import OURS
from experiments.peers.report import report_text, write_report
from hydrasim.errors import HydraError
from tests.experiments.peers.worlds import TINY

COMMAND = "python -m experiments.peers"


def raced() -> dict[str, Entry]:
    facts = {"device_memory_bytes": 3 << 20, "state_bytes": 4 << 20, "activation_peak_bytes": 1 << 20}
    entries = {
        OURS: Entry(OURS, loss_difference=0.0, seconds=[2.0, 2.0, 2.0], facts=facts),
        "gpipe": Entry("gpipe", {"microbatches": 4}, loss_difference=1e-7, seconds=[3.0, 3.0], memory_bytes=5),
        "ddp": Entry("ddp", dropped="it trains something else."),
    }
    entries["gpipe"].pairs = [(2.0, 3.0)] * 2
    return entries


def record(optimizer: str = "adamw", **options):
    simulated = {"gpipe": {"ratio": 1.65, "tokens_per_s": 64.0, "ours_tokens_per_s": 96.0}, "zero3": {"refused": "no"}}
    task = Task(TINY, optimizer)
    return record_of(task, raced(), COMMAND, simulated=simulated, **{"is_smoke": False, **options})


def test_the_summary_has_a_ratio_by_rival_optimizer_and_workload():
    found = summary([record(), record("sgd")], COMMAND)
    assert found["label"] == "emulated"
    assert found["command"] == COMMAND
    assert set(found["ratio_to"]) == {"gpipe"}
    assert set(found["ratio_to"]["gpipe"]) == {"adamw", "sgd"}
    assert found["ratio_to"]["gpipe"]["adamw"]["tiny"] == {
        "value": 1.5,
        "low": 1.5,
        "high": 1.5,
        "num_pairs": 2,
        "tokens_per_s": TINY.num_tokens / 3.0,
        "ours_tokens_per_s": TINY.num_tokens / 2.0,
        "largest_loss_difference": 1e-7,
        "simulated_ratio": 1.65,
        "simulated_over_measured_ratio": pytest.approx(1.1),
        "simulated_over_measured_tokens_per_s": 0.5,
    }
    assert found["simulation"] == {"gpipe": {"low": 0.5, "high": 0.5, "num_races": 2, "within_tenth": False}}
    assert {"cpu", "torch", "measured_at"} <= set(found["races"][0]["provenance"])


def test_races_of_one_folder_are_told_together_and_smoke_apart(tmp_path):
    for kept in (record(), record("sgd"), record("adamw-fused", is_smoke=True)):
        write_record(kept, tmp_path)
    assert [found["optimizer"] for found in read_records(tmp_path, is_smoke=False)] == ["adamw", "sgd"]
    assert [found["optimizer"] for found in read_records(tmp_path, is_smoke=True)] == ["adamw-fused"]


def test_what_is_no_race_is_refused(tmp_path):
    (tmp_path / "races").mkdir()
    (tmp_path / "races" / "W-adamw.json").write_text("{}")
    with pytest.raises(HydraError, match=r"W-adamw\.json is no race"):
        read_records(tmp_path, is_smoke=False)


def test_the_report_says_who_is_out_and_what_was_simulated(tmp_path):
    write_report([record()], tmp_path, COMMAND)
    text = (tmp_path / "report.md").read_text()
    row = "| gpipe | **1.500** | 1.500 to 1.500 | 2 | 128 | 1.0e-07 | 5 B | microbatches 4 |"
    assert row in text
    assert "- ddp is out: it trains something else." in text
    assert "| gpipe | 64 | 128 | -50.0 % | 1.650 | 1.500 | +10.0 % |" in text
    assert "| zero3 | refused: no |" in text
    assert "an activation peak of 1 MiB" in text
    assert json.loads((tmp_path / "summary.json").read_text())["races"][0]["contenders"]["ddp"]["dropped"]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_smoke_report_says_that_it_is_one():
    assert "(smoke: no numbers)" in report_text([record(is_smoke=True)], COMMAND)
