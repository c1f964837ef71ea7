"""The README and CONTRIBUTING say what is true: their commands and code blocks run, their figures are current."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from experiments.claims.check import check
from experiments.experiment import draw, make, read_frame
from experiments.readme import updated
from hydrasim import Link, simulate
from hydrasim.presets import paper_fig7
from hydrasim.schemas import BusFile, ClusterFile, DeviceFile, DiskFile, JobFile, LinkFile, ShardFile, WorkloadFile
from hydrasim.systems import simulate_system

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    lines = "\n".join(blocks(text, "sh")).splitlines()
    return [line.partition("#  ")[0].strip() for line in lines if line.startswith("hydrasim ")]


def write_worlds(folder: Path) -> None:
    """Write the workload and the cluster that the README documents field by field."""
    for name, text in zip(("workload.yaml", "cluster.yaml"), blocks(README, "yaml"), strict=True):
        (folder / name).write_text(text)


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)


def imported(path: Path, code: str) -> ModuleType:
    """Write a module and import it from there."""
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("index", range(len(blocks(README, "python"))))
def test_code_block_prints_what_the_readme_shows(index, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(blocks(README, "python")[index])
    done = run([sys.executable, str(script)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == blocks(README, "text")[index]


def test_commands_run_one_after_another(tmp_path):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    write_worlds(tmp_path)
    assert commands(README)
    for command in commands(README):
        done = run([sys.executable, "-m", "experiments.cli", *shlex.split(command)[1:]], tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), command


@pytest.mark.parametrize(
    ("index", "models"),
    [(0, (WorkloadFile, JobFile, ShardFile)), (1, (ClusterFile, DeviceFile, LinkFile, BusFile, DiskFile))],
)
def test_every_field_of_a_file_is_documented(index, models):
    text = blocks(README, "yaml")[index]
    for name in (name for model in models for name in model.model_fields):
        assert re.search(rf"\b{name}:", text), name


def test_commands_of_the_contributing_guide_run_on_its_code(tmp_path):
    for name, code in zip(("my_policy.py", "my_jobs.py"), blocks(CONTRIBUTING, "python"), strict=False):
        (tmp_path / name).write_text(code)
        assert name in CONTRIBUTING
    assert len(commands(CONTRIBUTING)) == 3
    for command in commands(CONTRIBUTING):
        done = run([sys.executable, "-m", "experiments.cli", *shlex.split(command)[1:]], tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), command


def test_figure_of_the_contributing_guide_is_made(tmp_path):
    module = imported(tmp_path / "devices.py", blocks(CONTRIBUTING, "python")[2])
    make("devices", module, tmp_path)
    draw(module, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"data.csv", "figure.png", "run.json"}
    assert read_frame(module, tmp_path)["ratio"].iloc[-1] == 8.0


def test_claim_of_the_contributing_guide_holds():
    code: dict[str, Any] = {}
    exec(blocks(CONTRIBUTING, "python")[3], code)
    assert [checked.verdict for checked in check([code["FIFO"]], {})] == ["PASS"]


def test_system_of_the_contributing_guide_trains_slower_than_sharp(tmp_path):
    code = imported(tmp_path / "my_system.py", blocks(CONTRIBUTING, "python")[4])
    preset = paper_fig7(4, 2, units_scale=0.01)
    link = Link(1e9)
    cluster = replace(preset.cluster, devices=tuple(replace(d, h2d=link, d2h=link) for d in preset.cluster.devices))
    timeline = simulate_system(preset.workload, cluster, code.LayerSwapping(), effects="transfers")
    assert timeline.makespan_s > simulate(preset.workload, cluster, "sharded-lrtf", effects="transfers").makespan_s
    assert {span.device for span in timeline.spans} >= {0, 1}


def test_device_of_the_contributing_guide_trains(tmp_path):
    (tmp_path / "my_device.py").write_text(blocks(CONTRIBUTING, "python")[5])
    done = run([sys.executable, "my_device.py"], tmp_path)
    assert done.stdout.strip() == "finished", done.stderr


def test_make_targets_named_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z]+)", README + CONTRIBUTING))
    assert named <= targets | {"it", "sure"}


def test_figures_are_those_of_the_committed_results():
    assert updated(README) == README


def test_files_and_modules_named_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README + CONTRIBUTING):
        assert (ROOT / target).exists(), target
