"""The simulated race."""

from __future__ import annotations

from dataclasses import replace

from experiments.peers.contender import Task
from experiments.peers.miniature import simulate_race, system_of
from experiments.peers.team import Limits
from tests.experiments.peers.worlds import TINY


def test_rivals_are_simulated_as_they_were_set():
    assert system_of("gpipe", {"microbatches": 8}).microbatches == 8
    assert system_of("gpipe", {"microbatches": 8}).recompute == "never"
    assert system_of("gpipe-equal-memory", {"microbatches": 2}).recompute == "always"
    assert system_of("1f1b", {"microbatches": 4}).name == "1f1b"
    assert system_of("ddp", {}).bucket_view
    assert not system_of("fsdp2-offload", {}).recompute
    assert not system_of("zero3-offload", {"adam": "torch"}).recompute
    assert system_of("ideal", {}) is None


def test_a_race_is_simulated_at_measured_costs():
    names = ("gpipe", "gpipe-equal-memory", "1f1b", "ddp", "fsdp2-offload", "zero3-offload")
    options = {name: {"microbatches": 2} for name in names}
    task = Task(replace(TINY, specs=TINY.specs[1:]), "adamw")
    found = simulate_race(
        task, {**options, "ideal": {}, "task-parallel-spilling": {}}, limits=Limits(), rounds=1, minibatches=2
    )
    assert set(found) == {*names, "task-parallel-spilling"}
    assert all(row["ratio"] > 0 and row["tokens_per_s"] > 0 for row in found.values())
    assert found["gpipe-equal-memory"]["ratio"] > found["gpipe"]["ratio"]
    assert len({row["ours_tokens_per_s"] for row in found.values()}) == 1
