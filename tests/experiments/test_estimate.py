"""`hydrasim estimate`: from a user's jobs to a profile that simulates, without memory for the model."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.cli import app
from hydrasim import Timeline
from hydrasim.profile import Profile
from hydrasim.roofline import QUOTED

FILE = """
from functools import partial
import torch
from torch import nn
from executor import TorchJob

def job(name, width, cuts=None):
    layers = [nn.Linear(width, width) for _ in range(6)]
    data = torch.utils.data.TensorDataset(torch.randn(8, width), torch.randn(8, width))
    loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)
    return TorchJob(name, layers, nn.functional.mse_loss, loader, partial(torch.optim.AdamW, lr=1e-3), cuts=cuts)

def small():
    return [job("A", 64), job("B", 64, cuts=(5,))]

def huge():
    return [job("H", 1 << 15)]  # 24 GiB of weights, and three times that with their state

def giant():
    return [job("G", 1 << 18)]  # a layer has a quarter of a TiB

def reads():
    return [job("A", int(torch.ones(3).sum().item()))]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "estimated_jobs.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(function: str, options: str = ""):
    machine = "" if "--machine" in options else "--machine 1x4090"
    return CliRunner().invoke(app, shlex.split(f"estimate estimated_jobs.py:{function} {machine} {options} -o p.json"))


def profile_of(function: str, options: str = "") -> Profile:
    result = run(function, options)
    assert result.exit_code == 0, result.output
    return Profile.read(Path("p.json"))


def test_an_estimate_is_simulated_on_its_machine(folder):
    profile = profile_of("small", "--precision bf16 --shards 3")
    assert [len(job.shards) for job in profile.workload.jobs] == [3, 2]  # B says its cuts
    assert (profile.label, list(profile.kinds)) == ("analytic", ["RTX 4090"])
    assert profile.workload.jobs[0].shards[0].parameter_bytes == 2 * (2 * (64 * 64 + 64))
    assert profile.provenance["machine"] == "1x4090"
    assert profile.provenance["efficiency"]["source"] == QUOTED["bf16"].source
    result = CliRunner().invoke(app, shlex.split("simulate p.json --machine 1x4090 -o t.jsonl"))
    assert result.exit_code == 0, result.output
    assert Timeline.read(folder / "t.jsonl").header["costs"] == "analytic"


def test_a_model_larger_than_this_machine_is_cut_to_fit_the_other():
    shards = profile_of("huge", "--precision bf16").workload.jobs[0].shards
    assert sum(shard.parameter_bytes for shard in shards) > 6 * 2 * 2**30
    assert len(shards) == 6  # of 6 GiB each with state and gradients beside them; two layers do not fit 24 GiB


def test_efficiency_batch_and_layers_are_as_asked():
    row = json.loads(run("small", "--shard-layers 6 --batch 1000 --efficiency 0.25 --json").stdout)
    assert row["provenance"]["efficiency"]["compute_fraction"] == 0.25
    assert row["label"] == "analytic"
    first, _ = row["jobs"]
    assert (first["job"], first["num_shards"]) == ("A", 1)
    assert first["flops"] == (6 + 6 + 5) * 2 * 1000 * 64 * 64  # the first input wants no gradient


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("small", "--precision fp8", "'fp8' is not one of the precisions: fp32, tf32, fp16, bf16"),
        ("small", "--machine 8x1080ti --precision bf16", "GTX 1080 Ti has no peak for precision 'bf16'; it has fp32"),
        ("small", "--efficiency 2", "compute_fraction is 2.0; it must be above 0 and at most 1"),
        ("small", "--shards 2 --shard-layers 2", "two ways to say the same"),
        ("giant", "", "ShardTooLarge"),
        ("reads", "", "if it needs them, add --allocate"),
    ],
)
def test_mistakes_are_told(function, options, message):
    result = run(function, options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()), result.output


def test_what_needs_values_can_be_built_with_them():
    assert profile_of("reads", "--allocate").workload.jobs[0].shards


def test_a_profile_is_carried_over_to_another_card():
    before = profile_of("small")
    result = CliRunner().invoke(
        app, shlex.split("estimate p.json --from 1x4090 --machine 8xa100-40gb --precision fp16 -o a100.json")
    )
    assert result.exit_code == 0, result.output
    after = Profile.read(Path("a100.json"))
    assert (before.label, after.label, list(after.kinds)) == ("analytic", "extrapolated", ["A100 40GB"])
    assert "extrapolated: from RTX 4090 to A100 40GB in fp16" in result.stdout


def test_a_batch_that_no_memory_could_hold_is_told():
    result = run("small", "--batch 1000000000000000000")
    assert result.exit_code == 2
    assert "no mini-batch of 1000000000000000000 samples can be" in result.stderr
