"""Random models at the least memory that is accepted: they run, and a byte less is refused with a way out."""

from __future__ import annotations

import json

import pytest
import torch

from experiments.bisection import smallest_memory
from experiments.memory import World, draw_world, draw_worlds, run, try_world
from experiments.memory_report import summary, write_report
from experiments.random_models import draw_job
from hydrasim.errors import ShardTooLarge


@pytest.fixture(scope="module")
def outcomes():
    return run(draw_worlds(12, seed=500))


def test_no_budget_is_breached(outcomes):
    assert [(outcome.world.seed, outcome.error) for outcome in outcomes if outcome.error or outcome.breach] == []
    assert sum(outcome.world.num_models for outcome in outcomes) == 12


def test_every_unit_keeps_to_its_pilot(outcomes):
    found = summary(outcomes, {})
    assert found["needed_margin_fraction"] < found["margin_fraction"]
    assert found["memory_error_fraction"]["min"] >= 0


def test_a_byte_less_is_refused_with_layer_numbers_and_a_way_out(outcomes):
    assert all(outcome.refusal_right for outcome in outcomes), [outcome.refusal for outcome in outcomes]


def test_the_report_counts_what_happened(outcomes, tmp_path):
    write_report(outcomes, {"dense": 1.25}, tmp_path, "the command")
    found = json.loads((tmp_path / "summary.json").read_text())
    assert (found["label"], found["num_models"], found["num_runs"]) == ("emulated", 12, len(outcomes))
    assert (found["num_breaches"], found["failures"]) == (0, [])
    text = (tmp_path / "report.md").read_text()
    assert "| **breaches of a budget** | **0** |" in text
    assert "1.25" in text
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == len(outcomes)
    assert (tmp_path / "used.png").stat().st_size


def test_a_run_is_drawn_from_its_seed_alone():
    worlds = draw_worlds(20, seed=7)
    assert worlds[:-1] == [draw_world(world.seed) for world in worlds[:-1]]
    assert sum(world.num_models for world in worlds) == 20
    first, again = draw_job(9, 2), draw_job(9, 2)
    assert str(first.module) == str(again.module)
    assert torch.equal(first.dataloader[1][1], again.dataloader[1][1])


class Refusing:
    """Lends nothing, so that a run ends right after its plan."""

    def devices(self, memory_bytes):
        raise ShardTooLarge("too late")


def test_a_refusal_after_the_cuts_were_accepted_is_a_failure_with_its_reason():
    outcome = try_world(World(9, 1, 2, "fifo", "ours", 0.0, (1.0,)), Refusing())
    assert outcome.error == "ShardTooLarge: too late"


def test_the_smallest_accepted_memory_is_found_to_the_byte():
    def accepts(memory_bytes):
        if memory_bytes < 12_345:
            raise ShardTooLarge("no")

    assert smallest_memory(accepts) == 12_345
