"""The commands that really run, from a user's file to weights on disk; and what a user may get wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from experiments.cli import app

JOBS = """
import torch
from torch import nn
from executor import TorchJob


def job(name, width):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 1))
    data = torch.utils.data.TensorDataset(torch.randn(32, 8), torch.randn(32, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
    return TorchJob(name, model, nn.functional.mse_loss, loader, lambda p: torch.optim.AdamW(p, lr=1e-2))


def jobs():
    return [job("A", 64), job("B", 32)]


def broken():
    raise ValueError("no data today")


def numbers():
    return [1, 2]
"""
INTERRUPTING = """
import os
import signal
from dataclasses import replace


class Interrupting(torch.utils.data.Dataset):
    def __init__(self, data):
        self.data, self.parent, self.count = data, os.getpid(), 0

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        self.count += 1
        if self.count == 12 and os.getpid() != self.parent:
            os.kill(self.parent, signal.SIGINT)
        return self.data[index]


def interrupting():
    first, second = jobs()
    data = Interrupting(first.dataloader.dataset)
    return [replace(first, dataloader=torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)), second]
"""
MEMORY = ["--devices", "2", "--memory", "60kB"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_jobs.py").write_text(JOBS)
    return folder


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_profile_plan_execute(folder: Path):
    jobs, profile, plan = f"{folder}/my_jobs.py:jobs", folder / "profile.json", folder / "plan.json"
    measured = invoke("profile", jobs, *MEMORY, "--rounds", 1, "-o", profile, "--json")
    assert measured.exit_code == 0, measured.output
    assert json.loads(measured.stdout)["num_unit_kinds"] >= 2
    planned = invoke("plan", profile, "--policy", "sharded-lrtf", "-o", plan, "--json")
    assert planned.exit_code == 0, planned.output
    ran = invoke(
        "execute", jobs, *MEMORY, "--plan", plan, "--weights", folder / "weights", "-o", folder / "t.jsonl", "--json"
    )
    assert ran.exit_code == 0, ran.output
    fields = json.loads(ran.stdout)
    assert fields["simulated_makespan_s"] == json.loads(plan.read_text())["makespan_s"]
    assert {name: job["status"] for name, job in fields["jobs"].items()} == {"A": "finished", "B": "finished"}
    assert len(fields["jobs"]["A"]["losses"]) == 4
    from safetensors.torch import load_file

    weights = load_file(folder / "weights" / "A.safetensors")
    assert weights["0.weight"].shape == (64, 8)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert "A/" in invoke("explain", "A/L0#0", "--timeline", folder / "t.jsonl").output


def test_real_jobs_can_be_planned_without_a_profile(folder: Path):
    planned = invoke("plan", f"{folder}/my_jobs.py:jobs", *MEMORY)
    assert planned.exit_code == 0, planned.output
    assert "host memory" in planned.output


def test_execute_prints_losses_and_a_summary(folder: Path):
    ran = invoke("execute", f"{folder}/my_jobs.py:jobs", *MEMORY, "--policy", "fifo")
    assert ran.exit_code == 0, ran.output
    assert "finished" in ran.output
    assert "emulated: makespan" in ran.output


def test_an_interrupted_run_exits_with_130_and_goes_on(folder: Path, tmp_path: Path):
    """Ctrl-C by a callback of the process's own, which is what a terminal sends."""
    (folder / "interrupting.py").write_text(JOBS + INTERRUPTING)
    command = ["execute", f"{folder}/interrupting.py:interrupting", *MEMORY, "--checkpoints", tmp_path / "c"]
    ran = invoke(*command)
    assert ran.exit_code == 130, ran.output
    assert "suspended" in ran.output
    command[1] = f"{folder}/my_jobs.py:jobs"
    again = invoke(*command, "--checkpoint-every", 1)
    assert again.exit_code == 2
    assert "resume it, or give another folder" in again.output
    ran = invoke(*command, "--resume", "--json")
    assert ran.exit_code == 0, ran.output
    plain = invoke("execute", command[1], *MEMORY, "--json")
    wanted, found = ({k: v["losses"] for k, v in json.loads(out.stdout)["jobs"].items()} for out in (plain, ran))
    assert found == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/my_jobs.py:jobs", "--resume"], "go with --checkpoints"),
        (["{folder}/missing.py:jobs"], "there is no Python file"),
        (["{folder}/my_jobs.py:absent"], "has no function 'absent'"),
        (["{folder}/my_jobs.py:broken"], "ValueError: no data today"),
        (["{folder}/my_jobs.py:numbers"], "must return a list of executor.TorchJob"),
        (["{folder}/my_jobs.py:jobs", "--memory", "1kB"], "ShardTooLarge"),
        (["{folder}/my_jobs.py:jobs", "--memory", "lots"], "'lots' is not a size"),
        (["{folder}/my_jobs.py:jobs", "--link", "fast"], "'fast' is not a rate"),
        (["{folder}/my_jobs.py:jobs", "--policy", "best"], "no policy is named 'best'"),
        (["{folder}/my_jobs.py:jobs", "--plan", "{folder}/my_jobs.py"], "PlanError"),
        (["{folder}/my_jobs.py:jobs", "--gantt", "{folder}/absent/a.png"], "there is no folder"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(folder: Path, arguments: list[str], message: str):
    ran = invoke("execute", *(argument.format(folder=folder) for argument in arguments))
    assert ran.exit_code == 2
    assert message in ran.output
    assert "Traceback" not in ran.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "command", [["demo"], ["validate", "{folder}/my_jobs.py:jobs"], ["execute", "{folder}/my_jobs.py:jobs"]]
)
def test_without_a_gpu_cuda_is_refused_in_one_line(folder: Path, command: list[str]):
    ran = invoke(*(word.format(folder=folder) for word in command), "--device", "cuda")
    assert ran.exit_code == 2
    assert ran.output.strip().splitlines() == [
        "DeviceError: no CUDA device is available here; use --device cpu for emulated devices."
    ]


def test_validate_reports_signed_errors(folder: Path):
    done = invoke(
        "validate", f"{folder}/my_jobs.py:jobs", *MEMORY, "--repeats", 1, "--policies", "fifo,random",
        "-o", folder / "validation",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "median error" in done.output
    fields = json.loads((folder / "validation" / "summary.json").read_text())
    assert (fields["num_cases"], fields["num_plans"], fields["num_runs"]) == (1, 2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["typo"], "no suite is named 'typo'"),
        (["smoke", "--case", "typo"], "has no case 'typo'"),
        (["smoke", "--memory", "8GiB", "--policies", "fifo"], "--policies, --memory: not with a suite"),
        (["{folder}/my_jobs.py:jobs", "--case", "a"], "--case: not with JOBS"),
        (["smoke", "--rescore"], "--rescore needs --output"),
        (["smoke", "--rescore", "-o", "{folder}/empty"], "holds no such case of suite 'smoke'"),
        (["{folder}/my_jobs.py:jobs", "--policies", "best"], "no policy is named 'best'"),
    ],
)
def test_validate_refuses_what_means_nothing(folder: Path, arguments: list[str], message: str):
    done = invoke("validate", *(argument.format(folder=folder) for argument in arguments))
    assert (done.exit_code, "Traceback" in done.output) == (2, False)
    assert message in done.output
    assert not (folder / "typo").exists()
