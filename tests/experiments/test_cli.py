"""The command line as a user meets it: results, files, and one message for a mistake."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.cli import app
from hydrasim import Plan, Timeline
from hydrasim.files import read_cluster
from hydrasim.machines import MACHINES
from hydrasim.policies import policies
from tests.experiments.worlds import as_json, write_world

ROOT = Path(__file__).resolve().parents[2]
WORLD = "workload.yaml --cluster cluster.yaml"
SETTINGS = [
    (models, devices, kind) for models in (8, 64) for devices in (4, 8) for kind in ("homogeneous", "heterogeneous")
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str):
    return CliRunner().invoke(app, shlex.split(command))


def json_of(command: str) -> dict:
    """Run a command that succeeds, with nothing but JSON on standard output."""
    result = run(f"{command} --json")
    assert result.exit_code == 0, result.stderr
    return as_json(result.stdout)


def mistake(command: str) -> str:
    """Run a command that a user got wrong; return its message."""
    result = run(command)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert result.stderr
    return result.stderr


@pytest.mark.parametrize(
    ("policy", "expected_s"), [("model-parallel", 12.0), ("task-parallel", 8.0), ("sharded-lrtf", 6.0)]
)
def test_fig6(policy, expected_s):
    assert json_of(f"simulate --preset paper-fig6 --policy {policy}")["makespan_s"] == expected_s


@pytest.mark.parametrize(("models", "devices", "kind"), SETTINGS)
def test_fig7_at_a_small_scale(models, devices, kind):
    setting = f"--models {models} --devices {devices} --kind {kind} --seed 1 --scale 0.1"
    found = json_of(f"compare --preset paper-fig7 {setting} --policies sharded-lrtf")
    (row,) = found["rows"]
    assert row["ratio_to_bound"] <= 1.001
    assert row["makespan_s"] == pytest.approx(row["ratio_to_bound"] * max(found["bounds"].values()))


def test_simulate_says_what_came_out_in_one_line():
    result = run("simulate --preset paper-fig6 --policy task-parallel")
    assert result.stdout == "simulated: makespan 8.00 s (1.33x bound), idle 25 %, moved 0 B\n"


def test_simulate_writes_timeline_picture_and_trace(folder):
    assert run(f"simulate {WORLD} -o run.jsonl --gantt run.png --trace run.json").exit_code == 0
    assert Timeline.read(folder / "run.jsonl").header["policy"] == "resident-lrtf"
    assert (folder / "run.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "run.json").read_text())["traceEvents"]


def test_simulate_takes_a_policy_from_a_file():
    assert json_of(f"simulate {WORLD} --policy policy.py:LastFirst")["policy"] == "last-first"


def test_simulate_costs_come_from_a_profile():
    # one job on one device: 0.5 s to load, two units of 2 s, 0.5 s to store
    assert json_of("simulate profile.json --devices 1 --memory 4KiB")["makespan_s"] == 5.0


def test_the_switches_reach_the_simulation():
    makespan_s = [
        json_of(f"simulate {WORLD} --policy fifo {switch}")["makespan_s"] for switch in ("--prefetch", "--no-prefetch")
    ]
    assert makespan_s[0] < makespan_s[1]
    theory, released = ["--effects theory", "--mechanism hydra-released"]
    assert json_of(f"simulate {WORLD} --policy fifo {theory}")["makespan_s"] < makespan_s[0]
    assert json_of(f"simulate {WORLD} --policy fifo {released}")["makespan_s"] > makespan_s[1]


def test_compare_prints_a_table_and_the_best():
    result = run("compare --preset paper-fig6")
    assert result.exit_code == 0
    for name in policies():
        assert name in result.stdout
    assert "simulated: best is resident-lrtf with 6.00 s; no plan takes less than 6.00 s" in result.stdout


def test_compare_keeps_to_the_policies_asked_for():
    rows = json_of("compare --preset paper-fig6 --policies fifo,random --seed 2")["rows"]
    assert [row["policy"] for row in rows] == ["fifo", "random"]


def test_compare_goes_on_without_a_policy_that_fails():
    result = run("compare --preset paper-fig6 --policies policy.py:Buggy,fifo")
    assert result.exit_code == 0
    assert "cannot run" in result.stdout
    assert "buggy: buggy failed to choose for device 0: AttributeError" in result.stderr
    rows = json_of("compare --preset paper-fig6 --policies policy.py:Buggy,fifo")["rows"]
    assert [bool(row["error"]) for row in rows] == [True, False]


def test_plan_shows_what_it_takes_and_can_be_followed(folder):
    result = run(f"plan {WORLD} -o plan.json --timeline plan.jsonl --gantt plan.png")
    assert result.exit_code == 0
    for text in ("2 x 2 KiB", "8 KiB", "host memory: 8.25 KiB", "simulated: makespan"):
        assert text in result.stdout
    plan = Plan.read(folder / "plan.json")
    assert all(step.offset is not None for steps in plan.devices for step in steps)
    assert json_of(f"simulate {WORLD} --plan plan.json")["makespan_s"] == plan.makespan_s
    assert Timeline.read(folder / "plan.jsonl").makespan_s == plan.makespan_s


def test_plan_as_json():
    found = json_of(f"plan {WORLD} --policy sharded-lrtf")
    assert found["planned_by"] == "sharded-lrtf"
    assert [job["shard_bytes"] for job in found["jobs"]] == [[2048, 2048]] * 2
    assert max(found["peak_bytes"]) <= 8192
    assert sum(job["moved_bytes"] for job in found["jobs"]) == found["moved_bytes"]
    assert max(job["end_s"] for job in found["jobs"]) == found["makespan_s"]


def test_plan_says_of_every_job_why_it_does_not_fit(folder):
    message = mistake("plan workload.yaml --devices 2 --memory 2KiB -o plan.json")
    assert message.startswith("ShardTooLarge: 2 of 2 jobs do not fit:\nshard 0 of 'A' needs 2,112 bytes")
    assert "shard 0 of 'B' needs 2,112 bytes" in message
    assert "Cut the model into more shards" in message
    assert not (folder / "plan.json").exists()


def test_policies_lists_every_one_with_its_source():
    result = run("policies")
    assert "Algorithm 2 of the paper" in result.stdout
    assert [row["policy"] for row in json_of("policies")] == list(policies())
    assert all(row["summary"] and row["source"] for row in json_of("policies"))


def test_machines_lists_every_one_with_its_price():
    result = run("machines")
    for line in (
        "8x1080ti 8 x GTX 1080 Ti 10.9 GiB 13.2 3.7 - 4 10 512 GiB - -",
        "8xa100-40gb 8 x A100 40GB 39.5 GiB 12.3 3.7 250 2 48 1,152 GiB 21.96 2026-11-09",
    ):
        assert line in " ".join(result.stdout.split())
    found = json_of("machines")
    assert [row["machine"] for row in found] == list(MACHINES)
    assert all(number["source"] for row in found for number in row["constants"].values())
    assert found[0]["constants"]["host_cores"]["value"] == 10


def test_a_machine_names_its_sources_and_gives_its_cluster(folder):
    result = run("machines 8x2080ti -o cluster.json")
    for text in ("paper: 2022 version, evaluation: 500 GB of DRAM", "13.1 GB/s", "53.8 TFLOPS", "0.007 ms"):
        assert text in " ".join(result.stdout.split())
    assert read_cluster(folder / "cluster.json") == MACHINES["8x2080ti"].cluster
    assert "price" in run("machines 8xh100").stdout
    makespans_s = [
        json_of(f"simulate workload.yaml {place}")["makespan_s"]
        for place in ("--cluster cluster.json", "--machine 8x2080ti")
    ]
    assert makespans_s[0] == makespans_s[1]
    assert json_of("machines 8x2080ti")["devices"] == ["RTX 2080 Ti"] * 8


def test_explain_tells_why():
    run(f"simulate {WORLD} --policy fifo -o run.jsonl")
    result = run("explain A/F0#0 --timeline run.jsonl")
    assert result.stdout.startswith("A/F0#0 ran on device 0 from 1 s to 2 s (1 s), simulated under fifo.")
    assert "waited 1 s for load A/w0 on h2d:0" in result.stdout
    assert json_of("explain A/F0#0 --timeline run.jsonl")["chain"][0]["waited_s"] == 1.0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("simulate", "name either a WORKLOAD file or a --preset"),
        ("simulate missing.yaml --devices 1 --memory 1G", "cannot read missing.yaml"),
        ("simulate --preset paper-fig6 --policy nope", "PolicyError: no policy is named 'nope'; there are fifo"),
        ("simulate --preset paper-fig6 --policy policy.py:Nope", "no policy 'Nope'; it has LastFirst, Buggy, Quits"),
        (
            "simulate --preset paper-fig6 --policy policy.py:Buggy",
            "buggy failed to choose for device 0: AttributeError",
        ),
        ("simulate --preset paper-fig6 --effects nope", "'nope' is not one of the effects: theory, transfers"),
        ("simulate --preset paper-fig6 --machine nope", "'nope' is not one of the machines: 8x1080ti, 8x2080ti"),
        ("machines nope", "'nope' is not one of the machines: 8x1080ti, 8x2080ti"),
        ("machines -o cluster.yaml", "say which machine's cluster cluster.yaml is to hold: 8x1080ti"),
        ("machines 8xh100 -o missing/cluster.yaml", "there is no folder missing to write cluster.yaml into"),
        ("simulate --preset paper-fig6 --mechanism nope", "'nope' is not one of the mechanisms: ours, paper"),
        ("simulate --preset paper-fig6 --devices zero", "--devices"),
        ("simulate --preset paper-fig6 --gantt missing/run.png", "there is no folder missing to write run.png into"),
        ("simulate --preset paper-fig6 --gantt run.foo", "Format 'foo' is not supported"),
        ("simulate workload.yaml --devices 1000000000 --memory 1MiB", "--devices"),
        ("simulate --preset paper-fig7 --models 1000000000", "--models"),
        ("simulate --preset paper-fig7 --scale nan", "units_scale is nan; it must be above 0"),
        ("simulate workload.yaml --devices 1 --memory 9KiB --loading-zone nan", "loading_zone_fraction is nan"),
        ("simulate endless.yaml --devices 1 --memory 1GiB", "units; at most 16,777,216 can be simulated"),
        ("simulate /dev/zero --devices 1 --memory 1MiB", "cannot read /dev/zero: it is no regular file"),
        ("simulate workload.yaml --cluster slow.yaml", "the costs say that load A/F0#0"),
        ("simulate --preset paper-fig6 --policy policy.py:Quits", "quits failed to choose for device 0: SystemExit: 0"),
        ("simulate --preset paper-fig6 --policy quits.py:X", "quits.py:X cannot be used: SystemExit: 0"),
        ("simulate missing\x1b[2J.yaml --devices 1 --memory 1G", "cannot read missing\\x1b[2J.yaml"),
        ("execute workload.yaml --weights policy.py", "policy.py cannot be a folder, since"),
        ("demo -o policy.py/x", "policy.py/x cannot be a folder, since"),
        ("execute my.py:jobs --devices 1000", "--devices"),
        ("simulate --preset paper-fig6 --plan missing.json", "PlanError: cannot read missing.json"),
        ("compare workload.yaml --devices 2 --memory 1KiB", "no policy can run this workload; fifo: shard 0 of 'A'"),
        ("explain A/F0#0 --timeline missing.jsonl", "TimelineError: cannot read missing.jsonl"),
        ("explain", "Missing argument 'UNIT'"),
        ("nope", "No such command 'nope'"),
    ],
)
def test_a_mistake_gives_one_message_and_exit_code_2(command, message):
    assert message in mistake(command)


def test_a_pictures_title_is_no_formula(folder):
    # A file's name with dollar signs was parsed as one, and failed.
    (folder / "$x^{$.py").write_text((folder / "policy.py").read_text())
    assert (
        run("simulate workload.yaml --cluster cluster.yaml --policy '$x^{$.py:LastFirst' --gantt run.png").exit_code
        == 0
    )


def test_a_picture_that_cannot_be_written_leaves_no_piece_of_it(folder):
    assert run("simulate --preset paper-fig6 --gantt run.foo").exit_code == 2
    assert not [path for path in folder.iterdir() if "run" in path.name]


@pytest.mark.parametrize("command", ["policies", "simulate --preset paper-fig6", "simulate --preset paper-fig6 --json"])
def test_a_full_output_is_one_message(command):
    with open("/dev/full", "w") as full:
        arguments = [sys.executable, "-m", "experiments", *shlex.split(command)]
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (2, "the system refused: OSError: [Errno 28] No space left on device\n")


def test_a_reader_that_has_seen_enough_gets_no_traceback():
    command = f"{sys.executable} -m experiments policies | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, check=False)
    assert "Traceback" not in done.stderr


def test_an_unknown_unit_comes_with_near_ones():
    run(f"simulate {WORLD} -o run.jsonl")
    assert "no unit 'A/F0#9' among its 9; did you mean A/F0#" in mistake("explain A/F0#9 --timeline run.jsonl")


def test_interruption_exits_with_130():
    result = run("simulate --preset paper-fig6 --policy policy.py:Interrupted")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


@pytest.mark.parametrize("command", app.registered_commands, ids=lambda command: command.callback.__name__)
def test_every_help_has_an_example(command):
    result = run(f"{command.callback.__name__} --help")
    assert result.exit_code == 0
    assert f"Example: hydrasim {command.callback.__name__}" in result.stdout


@pytest.mark.parametrize("name", ["simulate", "compare", "plan", "policies", "machines", "explain"])
def test_the_examples_run(name):
    run(f"simulate {WORLD} -o timeline.jsonl")
    (epilog,) = (c.epilog for c in app.registered_commands if c.callback.__name__ == name)
    result = run(epilog.partition("hydrasim ")[2])
    assert result.exit_code == 0, result.stderr


def test_the_installed_command_prints_json_alone():
    code = "from experiments.cli import main; main()"
    arguments = ["simulate", "--preset", "paper-fig6", "--policy", "sharded-lrtf", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["makespan_s"] == 6.0
    assert done.stderr == ""
