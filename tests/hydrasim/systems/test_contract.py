"""What every system of the registry keeps to, so that a new file in systems/ is tested by itself."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections import Counter
from pathlib import Path

import pytest

from hydrasim import Cluster, Device, Link, Shard, Timeline, TrainingJob, simulate
from hydrasim.command import HOST, Command
from hydrasim.errors import SystemRefused
from hydrasim.mechanism import EFFECTS
from hydrasim.systems import System, make_system, simulate_system, systems
from hydrasim.workload import Workload
from tests.worlds import BLOCK, workload

EVERY_SYSTEM = pytest.mark.parametrize("name", systems())
LINK = Link(BLOCK * 16.0, latency_s=0.125)


def three_jobs() -> Workload:
    """Return three unequal jobs, fused and not, one of which comes late."""
    shard = Shard(1.0, 2.0, BLOCK, BLOCK, output_bytes=BLOCK, working_bytes=3 * BLOCK, activation_bytes=BLOCK)
    return workload(
        TrainingJob("A", (shard,) * 3, 2, input_bytes=BLOCK, target_bytes=BLOCK, fetch_s=0.25),
        TrainingJob("B", (shard,) * 5, 1, 2, fused=False, activation_mode="keep"),
        TrainingJob("C", (shard,), 3, arrival_s=2.0),
    )


def cluster(count: int, blocks: int = 1 << 10, peer: Link | None = LINK) -> Cluster:
    return Cluster.of(count, Device(blocks * BLOCK, h2d=LINK, d2h=LINK, peer=peer))


def least_blocks(name: str, count: int) -> int:
    """Return the least memory with which the system takes the three jobs."""
    for blocks in range(1, 1 << 10):
        try:
            simulate_system(three_jobs(), cluster(count, blocks), name)
        except SystemRefused:
            continue
        return blocks
    raise AssertionError("it takes them with no memory")


@EVERY_SYSTEM
def test_a_system_is_a_frozen_dataclass_with_a_source(name: str):
    system = systems()[name]
    assert "__dataclass_fields__" in vars(system)
    assert system.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert make_system(name) == system()
    assert make_system(name).name == System.name_of(system) == name
    assert system.__doc__ is not None
    assert inspect.cleandoc(system.__doc__).split("\n\n")[-1].startswith("Source: ")


@EVERY_SYSTEM
def test_a_system_has_a_test_file_of_its_own(name: str):
    module = Path(str(sys.modules[systems()[name].__module__].__file__)).name
    assert Path(__file__).with_name(f"test_{module}").exists()


@EVERY_SYSTEM
def test_options_are_read_as_they_are_written(name: str):
    options = {field.name: str(field.default).lower() for field in dataclasses.fields(systems()[name])}
    assert make_system(name, options) == systems()[name]()


@EVERY_SYSTEM
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("effects", EFFECTS)
@pytest.mark.parametrize("peer", [LINK, None], ids=["peers", "through-host"])
def test_a_system_trains_every_job_to_its_end(name: str, count: int, effects: str, peer: Link | None):
    commands: list[Command] = []
    timeline = simulate_system(
        three_jobs(), cluster(count, peer=peer), name, effects=effects, commands=commands  # type: ignore[arg-type]
    )  # fmt: skip
    assert len(timeline.spans) == len(commands)
    fetched = Counter(span.unit for span in timeline.spans if span.kind == "fetch")
    assert set(fetched.values()) == {1}
    assert Counter(unit.partition("/")[0] for unit in fetched) == {
        job.name: job.num_minibatches for job in three_jobs().jobs
    }
    assert [command.number for command in commands] == list(range(len(commands)))
    for command in commands:
        assert all(number < command.number for number in command.after)
        assert all(commands[number].unit.job == command.unit.job for number in command.after)
    assert all(span.start_s >= 2.0 for span in timeline.spans if span.job == "C")


@EVERY_SYSTEM
@pytest.mark.parametrize("count", [1, 4])
def test_a_system_does_all_the_work_there_is(name: str, count: int):
    timeline = simulate_system(three_jobs(), cluster(count), name)
    for job in three_jobs().jobs:
        work_s = job.num_minibatches * sum(shard.forward_s + shard.backward_s for shard in job.shards)
        computed_s = sum(span.duration_s for span in timeline.spans if span.kind == "compute" and span.job == job.name)
        again_s = job.num_minibatches * sum(shard.forward_s for shard in job.shards)
        assert work_s - 1e-9 <= computed_s <= work_s + again_s + 1e-9


@EVERY_SYSTEM
def test_lanes_take_one_command_at_a_time_and_none_before_what_it_follows(name: str):
    timeline = simulate_system(three_jobs(), cluster(4), name)
    ends: dict[tuple[object, str], float] = {}
    end_s = {span.number: span.end_s for span in timeline.spans}
    for span in sorted(timeline.spans, key=lambda span: span.number):
        assert span.start_s >= ends.get(span.lane_key, 0.0)
        ends[span.lane_key] = span.end_s
        assert all(end_s[number] <= span.start_s for number in span.after)


@EVERY_SYSTEM
def test_a_system_is_the_same_twice_and_from_its_file(name: str, tmp_path: Path):
    first, second = (simulate_system(three_jobs(), cluster(2), name) for _ in range(2))
    assert first.to_lines() == second.to_lines()
    first.write(tmp_path / "run.jsonl")
    assert Timeline.read(tmp_path / "run.jsonl") == first


@EVERY_SYSTEM
@pytest.mark.parametrize("count", [1, 4])
def test_a_system_keeps_to_the_memory_it_states_and_refuses_with_less(name: str, count: int):
    least = least_blocks(name, count)
    timeline = simulate_system(three_jobs(), cluster(count, least), name)
    assert timeline.header["system"] == name
    assert len(timeline.header["peak_bytes"]) == count
    assert (least - 1) * BLOCK < max(timeline.header["peak_bytes"]) <= least * BLOCK
    with pytest.raises(SystemRefused, match=rf"{name} on \d devices? needs [\d,]+ bytes of device \d for '.'"):
        simulate_system(three_jobs(), cluster(count, least - 1), name)


@EVERY_SYSTEM
def test_a_system_runs_on_devices_that_differ(name: str):
    fast, small = Device(1 << 20, 2.0, peer=LINK, h2d=LINK), Device(1 << 16, h2d=LINK, d2h=LINK, peer=LINK)
    timeline = simulate_system(three_jobs(), Cluster((fast, small, small)), name)
    assert {span.device for span in timeline.spans if span.kind == "compute"} <= {0, 1, 2}
    assert all(span.device == HOST for span in timeline.spans if span.kind == "fetch")


def test_unknown_names_and_options_are_refused_with_those_there_are():
    with pytest.raises(SystemRefused, match="no system is named 'best'; there are sharp, 1f1b, "):
        make_system("best")
    with pytest.raises(SystemRefused, match="sharp is this project's own way to train"):
        make_system("sharp")
    with pytest.raises(SystemRefused, match="system gpipe has no option 'chunks'; it has microbatches, recompute, "):
        make_system("gpipe", {"chunks": "4"})
    with pytest.raises(SystemRefused, match="system gpipe: microbatches is 'many'; it must be of type int"):
        make_system("gpipe", {"microbatches": "many"})
    assert make_system("deepspeed-mp", {"recompute": "yes"}) == make_system("deepspeed-mp", {"recompute": "True"})


def test_systems_and_policies_train_the_same_work():
    # One device, one job that keeps its activations: nobody has anything to overlap or to split.
    shard = Shard(1.0, 2.0)
    jobs, device = workload(TrainingJob("A", (shard,) * 3, 4, activation_mode="keep")), Cluster.of(1, Device(1 << 20))
    ours_s = simulate(jobs, device, "fifo", effects="theory").makespan_s
    for name in ("deepspeed-mp", "deepspeed-mp-data", "deepspeed-mp-task", "gpipe", "1f1b"):
        assert simulate_system(jobs, device, name, effects="theory").makespan_s == ours_s == 36.0
