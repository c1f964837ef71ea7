"""The record says what was drawn, for which test, and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from hydrasim import Shard, TrainingJob, Workload
from hydrasim.mechanism import MECHANISMS, OURS, Mechanism
from tests.invariants.record import DRAWN, Record, count_world, mechanism_name

ROOT = Path(__file__).parents[2]


def test_a_drawn_world_is_counted_by_all_that_it_covers():
    before = DRAWN.copy()
    jobs = tuple(TrainingJob(name, (Shard(1, 1),), 1, activation_mode="keep") for name in "AB")
    count_world(Workload(jobs), 3, policy="fifo", effects="noise")
    assert DRAWN - before == Counter(
        {
            ("worlds", ""): 1,
            ("policy", "fifo"): 1,
            ("effects", "noise"): 1,
            ("num_devices", "3"): 1,
            ("num_jobs", "2"): 1,
            ("activation_mode", "keep"): 2,
        }
    )
    DRAWN.subtract(DRAWN - before)


def test_a_mechanism_goes_by_its_name():
    assert [mechanism_name(mechanism) for mechanism in MECHANISMS.values()] == list(MECHANISMS)
    assert mechanism_name(OURS) == "ours"
    assert mechanism_name(Mechanism(prefetch=False)) == "other"


def test_the_report_has_every_test_and_every_count(tmp_path: Path):
    record = Record("make nightly SEED=7", {"profile": "nightly", "seed": "7"})
    record.add("test_a", 2000, passed=True)
    record.add("test_b", 30, passed=False)
    record.write(tmp_path, Counter({("worlds", ""): 2030, ("policy", "fifo"): 1500, ("policy", "lrtf"): 530}))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["num_tests"], summary["num_failed"], summary["num_worlds"]) == (2, 1, 2030)
    assert summary["covered"]["policy"] == {"fifo": 1500, "lrtf": 530}
    report = (tmp_path / "report.md").read_text().splitlines()
    assert "| test_a | 2,000 | yes |" in report
    assert "| test_b | 30 | NO |" in report
    assert "| fifo | 1,500 |" in report
    assert "| command | make nightly SEED=7 |" in report


def test_the_plugin_counts_the_worlds_of_a_run_from_its_seed(tmp_path: Path):
    test = "test_systems.py::test_no_minibatch_begins_to_compute_before_the_one_before_has_changed_the_weights"
    arguments = ["-m", "pytest", f"tests/invariants/{test}", "--hypothesis-seed=7", "-p", "no:cacheprovider"]
    subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        check=True,
        env=os.environ | {"HYPOTHESIS_PROFILE": "ci", "INVARIANTS_RESULTS": str(tmp_path)},
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["tests"] == {test: {"num_worlds": summary["num_worlds"], "passed": True}}
    assert summary["seed"] == "7"
    assert summary["num_worlds"] >= summary["max_examples"]
    assert sum(summary["covered"]["system"].values()) == summary["num_worlds"]
