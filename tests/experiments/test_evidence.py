"""What a case leaves behind can be read back, and not be changed unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.evidence import Evidence
from hydrasim import Mechanism, Timeline, simulate
from hydrasim.errors import HydraError
from hydrasim.planning import make_plan
from tests.experiments.worlds import measured_on, profile

CLUSTER = measured_on(2)


def evidence() -> Evidence:
    measured = profile(cluster=CLUSTER)
    costs = measured.costs(CLUSTER)
    predicted = {policy: make_plan(measured.workload, CLUSTER, policy, costs=costs) for policy in ("fifo", "random")}
    return Evidence("one", measured, predicted, Mechanism(prefetch=False), {"mix": "one job"})


def a_run() -> Timeline:
    return simulate(profile().workload, CLUSTER, "fifo", costs=profile().costs(CLUSTER))


def test_a_case_is_read_back_as_it_was(tmp_path: Path):
    case = evidence()
    case.write_predictions(tmp_path)
    for policy in ("fifo", "random", "fifo"):
        case.add(policy, a_run(), tmp_path)
    case.num_oom = 2
    case.write_outcome(tmp_path)
    assert Evidence.read(tmp_path) == case
    assert [len(runs) for runs in case.measured.values()] == [2, 1]


def test_a_new_attempt_clears_the_old_one_and_is_counted(tmp_path: Path):
    first = evidence()
    first.write_predictions(tmp_path)
    first.add("fifo", a_run(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    evidence().write_predictions(tmp_path)
    found = Evidence.read(tmp_path)
    assert (found.num_attempts, found.measured) == (2, {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["plan-fifo.json", "profile.json", "simulated-random.jsonl.gz"])
def test_a_prediction_changed_afterwards_is_found_out(tmp_path: Path, name: str):
    evidence().write_predictions(tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(HydraError, match="was changed after it was hashed"):
        Evidence.read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"policies": [], "mechanism": {"x": 1}})])
def test_a_damaged_case_says_so(tmp_path: Path, text: str):
    evidence().write_predictions(tmp_path)
    (tmp_path / "case.json").write_text(text)
    with pytest.raises(HydraError, match=r"holds no case, or a damaged one"):
        Evidence.read(tmp_path)
