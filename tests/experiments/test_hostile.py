"""A short campaign of bad input and bad users, and the campaign's own machinery."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from experiments.hostile.__main__ import kinds_of, report_text, run_process, run_simulations, summarize
from experiments.hostile.attacks import KINDS, OUTPUTS, write_files
from experiments.hostile.processes import Attack, run_attack
from experiments.hostile.simulations import Simulation

NUM_SIMULATIONS, NUM_PROCESSES = 300, 18
ROOT = Path(__file__).resolve().parents[2]


def test_every_random_simulation_ends_in_a_sound_timeline_or_one_clear_error():
    done = run_simulations(0, range(NUM_SIMULATIONS))
    found = summarize(0, done, {})
    assert found["failures"] == []
    assert found["feasible_tight_fraction"] >= 0.7
    assert set(found["num_refused"]) >= {"ClusterError", "HydraError", "PolicyError", "ShardTooLarge", "WorkloadError"}


@pytest.mark.parametrize("index", range(NUM_PROCESSES))
def test_no_attack_on_a_process_leaves_a_trace(index):
    assert run_process(7, index, kinds_of(NUM_PROCESSES)[index]).problems == {}


def test_every_kind_of_attack_has_its_turn():
    made = Counter(kinds_of(200))
    assert sum(made.values()) == 200
    assert made == {kind: 2 * weight for kind, (weight, _) in KINDS.items()}
    assert set(kinds_of(NUM_PROCESSES)) == set(KINDS)


@pytest.mark.parametrize("command", [("simulate", "profile.json"), ("execute", "my_jobs.py:good", "--memory", "200KB")])
def test_the_good_files_are_good(tmp_path, command):
    write_files(tmp_path)
    outcome = run_attack(Attack("none", (*command, "-o", "out.jsonl"), (0,), OUTPUTS), tmp_path, Random(0), 100)
    assert outcome.problems == {}
    assert (tmp_path / "out.jsonl").read_text().startswith("{")


BAD_TOOL = """
import os, subprocess, sys, time
case = sys.argv[1]
if case == "traceback":
    raise ValueError
if case == "hung":
    time.sleep(60)
if case == "orphan":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    sys.exit(0)
if case == "half-written":
    open("out.jsonl", "w").write("{")
    sys.exit(0)
if case == "leftover":
    open(".1.tmp", "w").close()
    sys.exit(0)
sys.exit(1 if case == "code" else 2)
"""


@pytest.mark.parametrize("problem", ["traceback", "hung", "orphan", "half-written", "leftover", "code", "message"])
def test_the_runner_sees_each_problem(tmp_path, monkeypatch, problem):
    import experiments.hostile.processes as runner

    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__main__.py").write_text(BAD_TOOL)
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "_PATIENCE_S", 0.5)
    attack = Attack("none", (problem,), outputs=OUTPUTS)
    outcome = run_attack(attack, tmp_path, Random(0), 1.0 if problem == "hung" else 30.0)
    assert problem in outcome.problems


def test_a_failure_is_reported_with_what_makes_it_again():
    found = summarize(3, {17: Simulation("tight", 3, True, problem="a span ends before it starts")}, {})
    assert found["failures"][0]["reproduce"] == "python -m experiments.hostile --seed 3 --only simulation:17"
    assert found["num_simulations_wrong"] == 1
    assert "simulation:17" in report_text(found)


def test_the_campaign_writes_its_summary(tmp_path):
    command = [sys.executable, "-m", "experiments.hostile", "--simulations", "5", "--processes", "1", "--output"]
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "summary.json").read_text())
    assert (found["label"], found["num_simulations"], found["num_processes"]) == ("measured", 5, 1)
    assert "| num_hung | 0 |" in (tmp_path / "report.md").read_text()


SLOW_IMPORT = """
import sys, time
sys.path.insert(0, {root!r})
sys.modules["typer"] = None  # found last, and so in the middle of importing the command line
from experiments import __main__ as entry
class Finder:
    def find_spec(self, name, *rest):
        if name == "experiments.cli":
            print("importing", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Finder())
entry.main()
"""


def test_ctrl_c_while_modules_load_is_one_word_and_130():
    # It once was a traceback: the handler came with the command line, after a second of imports.
    program = SLOW_IMPORT.format(root=str(ROOT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        signal.signal(signal.SIGINT, before)
        assert process.stdout.readline() == "importing\n"
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")


def test_ctrl_c_that_a_destructor_swallows_comes_again():
    program = f"""
import sys, time, types
sys.path.insert(0, {str(ROOT)!r})
from experiments import __main__ as entry
class Destructor:
    def __del__(self):
        import signal
        signal.raise_signal(signal.SIGINT)
def app():
    Destructor()
    time.sleep(60)
sys.modules["experiments.cli"] = types.SimpleNamespace(app=app)
entry.main()
"""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
