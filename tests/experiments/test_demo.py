"""The demo on three tiny models: every file is there, says what it should, and the bits are right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from executor.errors import DeviceError
from experiments.demo import Demo, demo_prepared, run_demo, summary
from hydrasim.plan import Plan
from hydrasim.profile import Profile
from hydrasim.timeline import Timeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results") / "demo"


@pytest.fixture(scope="module")
def demo(folder: Path) -> Demo:
    return run_demo("tiny", rounds=1, folder=folder)


def test_both_executions_have_the_reference_bits(demo: Demo):
    assert demo.bit_identical
    assert set(demo.reference) == {"A", "B", "C"}


def test_one_wrong_tensor_is_reported(demo: Demo):
    digests = {job: dict(found) for job, found in demo.best.digests.items()}
    name = next(iter(digests["B"]))
    digests["B"][name] = "0" * 64
    assert not replace(demo, best=replace(demo.best, digests=digests)).bit_identical


def test_the_budget_is_less_than_half_of_the_largest_state(demo: Demo):
    fields = summary(demo)
    assert 0 < fields["budget_fraction"] <= 0.5
    assert all(peak <= fields["device_memory_bytes"] for peak in fields["peak_bytes"])


def test_the_summary_has_what_others_read(demo: Demo, folder: Path):
    fields = json.loads((folder / "summary.json").read_text())
    for name in (
        "policy", "simulated_makespan_s", "measured_makespan_s", "error_fraction", "simulated_gain", "measured_gain",
        "bit_identical", "budget_fraction", "policies", "lower_bound_s",
    ):  # fmt: skip
        assert fields[name] is not None
    assert fields["error_fraction"] == pytest.approx(fields["simulated_makespan_s"] / fields["measured_makespan_s"] - 1)
    assert fields["policies"][fields["policy"]] == min(fields["policies"].values())
    assert fields["simulated_gain"] >= 1


def test_simulated_and_measured_timelines_hold_the_same_commands(demo: Demo, folder: Path):
    for role in ("best", "worst"):
        simulated = Timeline.read(folder / f"simulated-{role}.jsonl")
        measured = Timeline.read(folder / f"measured-{role}.jsonl")
        assert (simulated.header["label"], measured.header["label"]) == ("simulated", "emulated")
        assert sorted((s.kind, s.device, s.unit, s.block, s.nbytes) for s in simulated.spans) == sorted(
            (s.kind, s.device, s.unit, s.block, s.nbytes) for s in measured.spans
        )


def test_plan_and_profile_can_be_read_back(demo: Demo, folder: Path):
    assert Profile.read(folder / "profile.json").digest == demo.profile.digest
    plan = Plan.read(folder / "plan-best.json")
    assert plan == demo.best.plan
    assert plan.profile_digest == demo.profile.digest


def test_pictures_and_trace_show_both(folder: Path):
    assert (folder / "gantt.png").read_bytes().startswith(b"\x89PNG")
    names = {
        event["args"]["name"]
        for event in json.loads((folder / "trace.json").read_text())["traceEvents"]
        if event["name"] == "process_name"
    }
    assert any("simulated" in name for name in names)
    assert any("measured" in name for name in names)


def test_without_a_gpu_cuda_is_refused_in_one_line():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match="no CUDA device is available here") as caught:
        demo_prepared("tiny", "cuda")
    assert "\n" not in str(caught.value)
