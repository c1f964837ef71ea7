"""Validation: predictions are on disk, with their hashes, before the first unit runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from executor import DevicePool
from executor.profiler import profile
from experiments.demo import demo_prepared
from experiments.validation import Case, Validation, validate


def test_errors_are_signed_and_against_the_median():
    case = Case("fifo", simulated_s=5.0, naive_s=2.0, measured_s=(4.0, 3.0, 8.0))
    assert case.error_fraction == 0.25
    assert case.naive_error_fraction == -0.5
    assert case.spread_fraction == 0.25
    fields = Validation((case,), "emulated").summary()
    assert fields["skill"] == 0.5
    assert not fields["cases"][0]["valid"]


def test_predictions_are_hashed_before_anything_runs(tmp_path: Path):
    prepared = demo_prepared("tiny", "cpu").limited(2)
    before: list[str] = []

    def on_event(_: object) -> None:
        if not before:
            before.extend(sorted(path.name for path in tmp_path.iterdir()))

    with DevicePool(prepared.devices) as pool:
        done = validate(
            prepared, profile(prepared, pool=pool, rounds=1, minibatches=2), ["fifo", "sharded-lrtf"], repeats=2,
            folder=tmp_path, pool=pool, on_event=on_event,
        )  # fmt: skip
    plans = ["plan-fifo.json", "plan-sharded-lrtf.json"]
    assert before == [*plans, "predictions.json", "simulated-fifo.jsonl", "simulated-sharded-lrtf.jsonl"]
    for name, digest in json.loads((tmp_path / "predictions.json").read_text()).items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert [len(case.measured_s) for case in done.cases] == [2, 2]
    assert json.loads((tmp_path / "summary.json").read_text())["num_cases"] == 2
    assert len(list(tmp_path.glob("measured-*.jsonl"))) == 4


def test_an_unknown_policy_is_refused_before_anything_runs():
    from hydrasim.errors import PolicyError

    prepared = demo_prepared("tiny", "cpu").limited(2)
    measured = profile(prepared, rounds=1, minibatches=2)
    with pytest.raises(PolicyError, match="no policy is named 'best'"):
        validate(prepared, measured, ["best"])
