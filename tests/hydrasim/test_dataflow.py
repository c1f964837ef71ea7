"""Blocks: which of them each unit reads, writes and uses up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import Phase, Shard, ShardUnit, TrainingJob
from hydrasim.dataflow import (
    BlockKey,
    activations_of,
    aligned,
    block_bytes,
    dataflow,
    passing_keys,
    state_keys,
    unit_bytes,
)

THREE = TrainingJob(
    "A",
    (Shard(1, 1, 100, 64, output_bytes=200), Shard(1, 1, 64, 64, output_bytes=10), Shard(1, 1, 1, 1)),
    minibatches=2,
    input_bytes=65,
    target_bytes=3,
)
#      F0 --x1 (256)--> F1 --x2 (64)--> L2
# x0 (128)                              y2 (64)
# w0: 128 + 64    w1: 64 + 64    w2: 64 + 64


def texts(keys: object) -> list[str]:
    return [str(key) for key in keys]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("nbytes", "rounded"), [(0, 0), (1, 64), (64, 64), (65, 128)])
def test_blocks_are_rounded_up_to_64_bytes(nbytes: int, rounded: int):
    assert aligned(nbytes) == rounded


def test_a_block_prints_as_job_kind_shard_and_minibatch():
    assert str(BlockKey("x", "A", 1, 7)) == "A/x1#7"
    assert str(BlockKey("w", "A", 1, -1)) == "A/w1"


@pytest.mark.parametrize(
    ("kind", "shard", "nbytes"),
    [
        ("w", 0, 192),
        ("w", 1, 128),
        ("x", 0, 128),
        ("x", 1, 256),
        ("x", 2, 64),
        ("g", 0, 256),
        ("g", 1, 64),
        ("y", 2, 64),
    ],
)
def test_the_size_of_a_block(kind: str, shard: int, nbytes: int):
    assert block_bytes(THREE, BlockKey(kind, "A", shard, 0)) == nbytes


@pytest.mark.parametrize(
    ("unit", "reads", "writes", "consumes"),
    [
        ("A/F0#1", {"A/w0": 128, "A/x0#1": 128}, ["A/x1#1"], []),
        ("A/F1#1", {"A/w1": 64, "A/x1#1": 256}, ["A/x2#1"], []),
        ("A/L2#1", {"A/w2": 128, "A/x2#1": 64, "A/y2#1": 64}, ["A/g1#1"], ["A/x2#1", "A/y2#1"]),
        ("A/B1#1", {"A/w1": 128, "A/x1#1": 256, "A/g1#1": 64}, ["A/g0#1"], ["A/x1#1", "A/g1#1"]),
        ("A/B0#1", {"A/w0": 192, "A/x0#1": 128, "A/g0#1": 256}, [], ["A/x0#1", "A/g0#1"]),
    ],
)
def test_a_fused_minibatch(unit: str, reads: dict[str, int], writes: list[str], consumes: list[str]):
    parsed = ShardUnit.parse(unit)
    flow = dataflow(THREE, parsed)
    assert {str(key): nbytes for key, nbytes in flow.reads} == reads
    assert texts(flow.writes) == writes
    assert texts(flow.consumes) == consumes
    assert flow.updates_state == (parsed.phase is not Phase.FORWARD)


def test_the_last_unfused_forward_reads_targets_and_leaves_them_for_the_backward():
    forward, backward = (dataflow(THREE, ShardUnit("A", phase, 2, 0)) for phase in (Phase.FORWARD, Phase.BACKWARD))
    assert "A/y2#0" in texts(key for key, _ in forward.reads)
    assert forward.writes == forward.consumes == ()
    assert texts(backward.consumes) == ["A/x2#0", "A/y2#0"]


@pytest.mark.parametrize(
    ("unit", "nbytes"), [("A/F0#0", 192 + 128 + 256), ("A/L2#0", 128 + 64 + 64 + 64), ("A/B1#0", 128 + 256 + 64 + 256)]
)
def test_a_unit_needs_room_for_its_state_inputs_and_outputs(unit: str, nbytes: int):
    assert unit_bytes(THREE, ShardUnit.parse(unit)) == nbytes


KEPT = replace(
    THREE, shards=tuple(replace(shard, activation_bytes=70) for shard in THREE.shards), activation_mode="keep"
)


def test_a_kept_forward_writes_activations_and_its_backward_uses_them_up():
    forward, backward = (dataflow(KEPT, ShardUnit.parse(text)) for text in ("A/F1#1", "A/B1#1"))
    assert texts(forward.writes) == ["A/x2#1", "A/a1#1"]
    assert (str(backward.reads[-1][0]), backward.reads[-1][1]) == ("A/a1#1", 128)
    assert "A/a1#1" in texts(backward.consumes)
    assert (forward.mode, backward.mode) == ("keep", "keep")


def test_a_backward_that_recomputes_reads_no_activations_but_nobody_needs_them_any_more():
    backward = dataflow(KEPT, ShardUnit.parse("A/B1#1"), "recompute")
    assert "A/a1#1" not in texts(key for key, _ in backward.reads)
    assert "A/a1#1" in texts(backward.consumes)
    assert (
        dataflow(KEPT, ShardUnit.parse("A/F1#1"), "recompute").writes
        == dataflow(THREE, ShardUnit.parse("A/F1#1")).writes
    )


@pytest.mark.parametrize(
    ("job", "unit"), [(KEPT, "A/L2#0"), (THREE, "A/B0#0"), (replace(THREE, activation_mode="keep"), "A/B0#0")]
)
def test_there_is_nothing_to_keep_in_one_unit_in_a_job_that_recomputes_and_without_bytes(job: TrainingJob, unit: str):
    assert activations_of(job, ShardUnit.parse(unit)) is None
    assert not [key for key in dataflow(job, ShardUnit.parse(unit)).touched if key.kind == "a"]


def test_what_lies_in_host_memory_are_state_and_what_one_minibatch_hands_on():
    assert texts(state_keys(THREE)) == ["A/w0", "A/w1", "A/w2"]
    boundaries = ["A/x0#0", "A/x1#0", "A/x2#0", "A/g0#0", "A/g1#0", "A/y2#0"]
    assert texts(passing_keys(replace(THREE, minibatches=1))) == boundaries
    assert texts(passing_keys(THREE)) == [*boundaries, "A/x0#1", "A/y2#1"]
    assert passing_keys(KEPT) == passing_keys(THREE)
    spilled = replace(KEPT, activation_mode="spill")
    assert texts(passing_keys(spilled))[8:] == ["A/a0#0", "A/a1#0"]
    assert texts(passing_keys(replace(spilled, fused=False)))[8:] == ["A/a0#0", "A/a1#0", "A/a2#0"]
