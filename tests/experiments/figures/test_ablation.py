"""Levels leave out what they say, and all are relative to Hydra."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.figures import ablation
from experiments.figures.ablation import HYDRA, LEVELS
from experiments.paper.runs import run_one
from experiments.paper.worlds import rival_world, sharp_world, transformers


def test_the_smoke_run_is_relative_to_hydra_and_can_be_drawn():
    frame = ablation.run(True)
    assert not frame.duplicated(list(ablation.ABOUT.keys)).any()
    for _, part in frame.groupby("costs"):
        ratios = part.set_index("level")["ratio"]
        assert list(ratios.index) == [level.name for level in LEVELS]
        assert ratios[HYDRA.name] == 1.0
        assert 1.0 < ratios["no buffering"] < ratios["plain copies"] < ratios["no SHARP, plain copies"]
        assert ratios["no SHARP"] <= ratios["no SHARP, no buffering"] < ratios["no SHARP, plain copies"]
        assert ratios["no spilling, keeping"] < ratios["no spilling, recomputing"]  # a device holds 250M either way
    assert len(ablation.draw(frame).axes) == 1


def test_the_papers_ratios_stand_at_its_rows_alone():
    printed = {level.name: level.paper_ratio for level in LEVELS}
    assert [printed[name] for name in ("no SHARP, no buffering", "no buffering", "Hydra")] == [13.05, 2.3, 1.0]
    assert all(level.paper_ratio in (13.05, 2.3) for level in LEVELS if "plain copies" in level.name)
    assert sum(level.paper_ratio == level.paper_ratio for level in LEVELS) == 5


def test_without_sharp_equal_jobs_take_as_long_as_one_does_so_often():
    jobs = transformers(2, 90e6, 16)
    worlds = sharp_world(jobs, ablation.MACHINE, precision="fp32"), rival_world(jobs, ablation.MACHINE)
    alone = next(level for level in LEVELS if level.name == "no SHARP, no buffering").run(*worlds)
    assert len(alone.world.workload.jobs) == 1
    assert not alone.world.mechanism.prefetch
    both = replace(alone, world=replace(alone.world, workload=worlds[0].workload))
    # But for the last store, which another job's load would hide.
    assert run_one(both, 20).makespan_s == pytest.approx(2 * run_one(alone, 20).makespan_s, rel=0.01)


def test_levels_without_spilling_keep_models_on_devices():
    worlds = [sharp_world(transformers(2, 90e6, 16), ablation.MACHINE, precision="fp32")] * 2
    assert [level.name for level in LEVELS if level.run(*worlds).system is not None] == [
        "no spilling, recomputing",
        "no spilling, keeping",
    ]
