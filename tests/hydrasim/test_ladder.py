"""The ladder of effects: standings, who overtakes whom, and what chance does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hydrasim import Bus, Cluster, Device, Link, Shard, TrainingJob
from hydrasim.compare import compare
from hydrasim.errors import HydraError
from hydrasim.ladder import Ladder, Standing, climb, draw
from hydrasim.mechanism import EFFECTS
from tests.worlds import BLOCK, workload

POLICIES = ("sharded-lrtf", "model-parallel", "resident-lrtf")


def switching_costs() -> tuple[object, Cluster]:
    """Two equal jobs of two shards on one device that holds one of them: exact LRTF reloads for ever."""
    shard = Shard(0.25, 0.5, parameter_bytes=4 * BLOCK)
    jobs = workload(*(TrainingJob(name, (shard,) * 2, 4) for name in "AB"))
    link = Link(float(4 * BLOCK), shared="root")
    device = Device(9 * BLOCK, h2d=link, d2h=link)
    return jobs, Cluster((device,), buses=(Bus("root", 4.0 * BLOCK),), variation=0.1)


def test_every_rung_is_what_a_comparison_there_says():
    jobs, cluster = switching_costs()
    ladder = climb(jobs, cluster, POLICIES, num_draws=1)
    for effects in EFFECTS:
        wanted = {row.policy: row.makespan_s for row in compare(jobs, cluster, POLICIES, effects=effects).rows}
        assert {name: standing.makespan_s for name, standing in ladder.on(effects).items()} == wanted


def test_transfers_decide_what_theory_leaves_open():
    jobs, cluster = switching_costs()
    ladder = climb(jobs, cluster, POLICIES, num_draws=1)
    assert {standing.rank for standing in ladder.on("theory").values()} == {1}
    transfers = ladder.on("transfers")
    assert transfers["model-parallel"].rank == 1
    assert transfers["resident-lrtf"].rank < transfers["sharded-lrtf"].rank


def test_noise_is_a_mean_over_draws_with_its_spread():
    jobs, cluster = switching_costs()
    draws = [compare(jobs, cluster, ["fifo"], effects="noise", seed=seed).rows[0].makespan_s for seed in (3, 4)]
    standing = climb(jobs, cluster, ["fifo"], seed=3, num_draws=2).on("noise")["fifo"]
    assert standing.makespan_s == sum(draws) / 2
    assert standing.spread_s == abs(draws[0] - draws[1]) / 2 > 0


def ladder_of(lower: dict[str, float], upper: dict[str, float]) -> Ladder:
    def standing(effects: str, name: str, makespans: dict[str, float]) -> Standing:
        rank = 1 + sum(other < makespans[name] for other in makespans.values())
        return Standing(name, effects, makespans[name], rank=rank)

    rungs = (("theory", lower), ("transfers", upper))
    return Ladder(tuple(standing(effects, name, makespans) for effects, makespans in rungs for name in makespans))


def test_tau_counts_pairs_that_keep_their_order():
    ladder = ladder_of({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 2.0, "b": 1.0, "c": 3.0})
    assert ladder.kendall_tau("theory", "transfers") == pytest.approx(1 / 3)
    assert ladder.overtakings("theory", "transfers") == [("b", "a")]
    assert ladder.kendall_tau("theory", "theory") == 1.0


def test_equal_rankings_are_alike_ties_or_not():
    ladder = ladder_of({"a": 1.0, "b": 1.0, "c": 2.0}, {"a": 3.0, "b": 3.0, "c": 4.0})
    assert ladder.kendall_tau("theory", "transfers") == 1.0


def test_a_rung_that_tells_nobody_apart_says_nothing():
    ladder = ladder_of({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0})
    assert ladder.kendall_tau("theory", "transfers") is None
    assert ladder.overtakings("theory", "transfers") == []


def test_who_cannot_run_has_no_rank_and_says_why():
    jobs, cluster = switching_costs()
    small = replace(cluster, devices=(replace(cluster.devices[0], memory_bytes=BLOCK),))
    ladder = climb(jobs, small, ["fifo"], num_draws=1)
    assert ladder.on("theory")["fifo"].rank == 1
    assert ladder.on("transfers")["fifo"].rank is None
    assert "needs" in ladder.on("transfers")["fifo"].error
    assert ladder.kendall_tau("theory", "transfers") is None


def test_a_ladder_needs_a_draw():
    jobs, cluster = switching_costs()
    with pytest.raises(HydraError, match="num_draws is 0; it must be at least 1"):
        climb(jobs, cluster, num_draws=0)


def test_the_picture_names_every_policy_on_both_sides(tmp_path: Path):
    jobs, cluster = switching_costs()
    figure = draw(climb(jobs, cluster, POLICIES, num_draws=1), tmp_path / "ladder.png")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert all(texts.count(name) == 2 for name in POLICIES)
    assert (tmp_path / "ladder.png").stat().st_size > 0


def test_a_frame_has_a_row_a_policy_and_rung():
    jobs, cluster = switching_costs()
    frame = climb(jobs, cluster, POLICIES, num_draws=1).to_frame()
    assert len(frame) == len(POLICIES) * len(EFFECTS)
    assert list(frame.columns) == ["policy", "effects", "makespan_s", "spread_s", "rank", "error"]


def test_rival_systems_climb_too():
    jobs, cluster = switching_costs()
    ladder = climb(jobs, cluster, ["fifo"], systems=["ddp"], num_draws=1)
    assert [standing.policy for standing in ladder.standings] == ["fifo", "ddp"] * len(EFFECTS)


def test_a_picture_of_an_unknown_format_is_refused(tmp_path: Path):
    jobs, cluster = switching_costs()
    with pytest.raises(HydraError, match="cannot write"):
        draw(climb(jobs, cluster, ["fifo"], num_draws=1), tmp_path / "ranks.xyz")
    assert not list(tmp_path.iterdir())
