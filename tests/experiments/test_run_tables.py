"""Tables, Parquet and utilization as a user of the command line meets them."""

import json
import shlex

import pandas as pd
import pytest
from typer.testing import CliRunner

from experiments.cli import app
from hydrasim import Timeline
from tests.experiments.worlds import as_json, write_world

WORLD = "workload.yaml --cluster cluster.yaml --policy fifo"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output(command: str) -> str:
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_tables_come_before_the_line():
    lines = output(f"simulate {WORLD} --tables").splitlines()
    heads = [" ".join(line.split()) for line in lines if line.startswith((" job", " device  ", " no unit"))]
    assert heads == [
        "job units compute moved waits first start end turnaround",
        "device units compute-busy any-lane-busy nvidia-smi-like peak in arena h2d d2h peer",
        "no unit, for h2d d2h wait",
    ]
    assert [output(f"simulate {WORLD}")] == [lines[-1] + "\n"]


def test_a_rival_system_states_its_peak():
    text = output("simulate workload.yaml --cluster cluster.yaml --system gpipe --tables")
    assert "peak memory" in text
    assert "peak in arena" not in text


def test_tables_as_json_hold_jobs_and_devices():
    found = as_json(output(f"simulate {WORLD} --tables --json"))
    assert [job["job"] for job in found["jobs"]] == ["A", "B"]
    assert sum(job["moved_bytes"] for job in found["jobs"]) == found["moved_bytes"]
    mean = sum(device["compute_busy_fraction"] for device in found["devices"]) / 2
    assert mean == pytest.approx(found["compute_busy_fraction"])
    assert found["compute_busy_fraction"] <= found["any_lane_busy_fraction"] <= 1
    assert "jobs" not in as_json(output(f"simulate {WORLD} --json"))


def test_turnaround_counts_from_arrival(folder):
    text = (folder / "workload.yaml").read_text()
    (folder / "workload.yaml").write_text(text.replace("  - name: B\n", "  - name: B\n    arrival_s: 4\n"))
    _, late = as_json(output(f"simulate {WORLD} --tables --json"))["jobs"]
    assert late["turnaround_s"] == late["end_s"] - 4
    assert late["first_start_s"] >= 4


def test_parquet_is_a_timeline_like_any_other(folder):
    output(f"simulate {WORLD} -o run.parquet --trace run.json")
    output(f"simulate {WORLD} -o run.jsonl")
    assert Timeline.read(folder / "run.parquet") == Timeline.read(folder / "run.jsonl")
    assert len(pd.read_parquet(folder / "run.parquet")) == len(Timeline.read(folder / "run.jsonl").spans)
    assert "waited 1 s for load A/w0" in output("explain A/F0#0 --timeline run.parquet")
    counters = {e["name"] for e in json.loads((folder / "run.json").read_text())["traceEvents"] if e["ph"] == "C"}
    assert counters == {"memory in use", "h2d rate", "d2h rate", "host link rate"}


def test_every_shown_utilization_is_named():
    assert "compute-busy" in output("compare --preset paper-fig6 --policies fifo")
    assert "compute-busy" in output(f"plan {WORLD}")
    assert "1 - compute-busy" in " ".join(output("simulate --help").split())
