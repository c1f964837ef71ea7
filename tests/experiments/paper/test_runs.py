"""Runs of a part are extended to what the whole takes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.paper import runs
from experiments.paper.runs import (
    ALIKE_MINIBATCHES,
    STEADY_MINIBATCHES,
    Outcome,
    Run,
    beside,
    rank,
    run_all,
    run_by_difference,
    run_one,
    scaled,
    shortened,
)
from experiments.paper.worlds import World
from hydrasim import Cluster, Device, Link, Shard, TrainingJob, Workload
from hydrasim.mechanism import OURS
from hydrasim.simulator import simulate
from hydrasim.systems import make_system, simulate_system
from hydrasim.systems.registry import parse_system

SHARD = Shard(1.0, 2.0, parameter_bytes=64, output_bytes=8)


def world(*lengths: int, devices: int = 2, memory_bytes: int = 1 << 20) -> World:
    jobs = tuple(TrainingJob(f"j{index}", (SHARD, SHARD), length) for index, length in enumerate(lengths))
    return World(Workload(jobs), Cluster.of(devices, Device(memory_bytes)), OURS)


def test_jobs_are_shortened_in_proportion():
    short, factor = shortened(world(100, 400).workload, 10)
    assert ([job.num_minibatches for job in short.jobs], factor) == ([10, 40], 10.0)
    whole = world(100, 400).workload
    assert shortened(whole, 0) == shortened(whole, 100) == (whole, 1.0)


@pytest.mark.parametrize("system", [None, "deepspeed-mp", "ddp", "gpipe"])
def test_a_part_extended_is_the_whole_in_a_steady_state(system: str | None):
    run = Run(world(40, 80), "sharded-lrtf", system, effects="theory")
    part, whole = run_one(run, 10), run_one(run, 0)
    assert part.makespan_s == pytest.approx(whole.makespan_s, rel=0.01)
    assert part.simulated_minibatches < whole.simulated_minibatches


@pytest.mark.parametrize("system", [None, "gpipe"])
def test_what_a_run_comes_to_is_its_timelines_to_the_bit(system: str | None):
    made = world(7, 9)
    if system is None:
        timeline = simulate(made.workload, made.cluster, "fifo", mechanism=made.mechanism)
    else:
        made = World(Workload(made.workload.jobs[:1]), made.cluster, OURS)
        timeline = simulate_system(made.workload, made.cluster, system)
    outcome = run_one(Run(made, "fifo", system), 0)
    assert (outcome.makespan_s, outcome.utilization) == (timeline.makespan_s, timeline.utilization())


def test_equal_jobs_of_a_serial_system_are_simulated_once():
    outcome = run_one(Run(world(40, 40, 40), system="deepspeed-mp", effects="theory"), STEADY_MINIBATCHES)
    assert outcome.simulated_minibatches == ALIKE_MINIBATCHES
    assert outcome.makespan_s == 3 * 40 * 6.0  # forward 2 x 1 s, backward 2 x 2 s, nothing overlaps
    assert outcome.utilization == 0.5


@pytest.mark.parametrize("system", ["ddp", "spilling", "fsdp"])
def test_what_happens_once_is_no_part_of_a_difference(system: str):
    # a mini-batch takes 9 s or less, and moving 128 bytes in and out 64 s
    slow = Cluster.of(1, Device(1 << 20, h2d=Link(4.0), d2h=Link(4.0)))
    run = Run(World(world(40).workload, slow), system=system)
    (found,), whole = run_by_difference([run], 4), run_one(run, 0)
    assert found.makespan_s == pytest.approx(whole.makespan_s)
    assert found.simulated_minibatches == 4
    assert run_by_difference([run], 0) == [whole]


RIVALS = [
    "ddp", "fsdp", "fsdp:mixed_precision=true", "fsdp-offload", "zero3-offload:recompute=false", "gpipe:microbatches=4",
    "1f1b", "deepspeed-mp", "deepspeed-mp-data", "deepspeed-mp-task:num_groups=1", "spilling",
    "task-groups:num_groups=2",
]  # fmt: skip


def in_static_order(system: str, *lengths: int) -> Run:
    """Return a run on devices that share slow links and a slow host."""
    link = Link(96.0, latency_s=0.125)
    device = Device(1 << 20, h2d=link, d2h=link, peer=Link(48.0))
    return Run(
        World(world(*lengths).workload, Cluster((device,) * 4, host_bytes_per_s=64.0)), system=parse_system(system)
    )


@pytest.mark.parametrize("system", RIVALS)
def test_two_minibatches_of_a_rival_of_static_order_tell_of_all(system: str):
    run = in_static_order(system, 8)
    (found,) = run_by_difference([run], 2)
    assert found.makespan_s == pytest.approx(run_one(run, 0).makespan_s, rel=1e-9)


@pytest.mark.parametrize("system", RIVALS[:-2])
def test_jobs_that_are_trained_alone_are_extended_exactly(system: str):
    run = in_static_order(system, 11, 25, 3, 11)
    found, whole = run_one(run, STEADY_MINIBATCHES), run_one(run, 0)
    assert found.makespan_s == pytest.approx(whole.makespan_s, rel=1e-9)
    assert found.utilization == pytest.approx(whole.utilization, rel=1e-9)
    assert found.simulated_minibatches < whole.simulated_minibatches


def test_twice_as_many_minibatches_double_every_length_and_all_stay_all():
    assert [scaled(2, count) for count in (200, 400, 0)] == [2, 4, 0]


def test_the_best_outcome_is_the_fastest_that_is_not_refused():
    refused, slow, fast = Outcome(math.nan, error="too large"), Outcome(2.0), Outcome(1.0)
    assert min([refused, slow, fast], key=rank) is fast
    assert min([refused, refused], key=rank) is refused


def test_an_odd_length_is_halved_all_the_same():
    run = Run(world(40, 80), system="ddp", effects="theory")
    assert run_by_difference([run], 5)[0].makespan_s == run_one(run, 0).makespan_s


def test_what_a_system_refuses_is_said():
    outcome = run_one(Run(world(4, memory_bytes=100), system=make_system("ddp")), 2)
    assert math.isnan(outcome.makespan_s)
    assert "ddp" in outcome.error


def test_runs_beside_each_other_give_what_they_give_alone():
    different = [Run(world(6, 12)), Run(world(6, 12), system="deepspeed-mp"), Run(world(3, 3, 3), "fifo")]
    assert run_all(different, 3) == [run_one(run, 3) for run in different]


def test_what_figures_have_in_common_is_simulated_once(monkeypatch):
    asked = []

    def simulated(_, pairs, __):
        asked.extend(pairs)
        return [Outcome(1.0, 0.5, length) for _, length in pairs]

    monkeypatch.setattr(runs, "_done", {})
    monkeypatch.setattr(runs, "beside", simulated)
    first, other = Run(world(5, 7)), Run(world(5, 8))
    assert run_all([first, first], 2) == [Outcome(1.0, 0.5, 2)] * 2
    assert run_all([other, first, first], [2, 2, 3]) == [Outcome(1.0, 0.5, length) for length in (2, 2, 3)]
    assert asked == [(first, 2), (other, 2), (first, 3)]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: nothing runs beside another")
def test_workers_end_when_whoever_asked_for_them_is_killed(tmp_path):
    script = tmp_path / "runs.py"
    script.write_text(
        "import os, signal, threading, multiprocessing\n"
        "from experiments.paper.runs import Run, run_all\n"
        "from tests.experiments.paper.test_runs import world\n"
        "def kill():\n"
        "    while len(multiprocessing.active_children()) < 2: pass\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=kill).start()\n"
        "    run_all([Run(world(2000, 2000 + more)) for more in range(20)], 0)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert done.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) >= 2
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.1)


def test_results_come_in_the_order_of_the_arguments_whatever_is_begun_first():
    assert beside(math.pow, [(2, 1), (2, 3), (2, 2)], weight=lambda _, power: power) == [2.0, 8.0, 4.0]
