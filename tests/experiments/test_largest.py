"""A model larger than its device trains, and its record says what it took."""

from __future__ import annotations

import json

import pytest
import torch

from executor import CpuDevice
from experiments.largest import Shape, run

SMALL = Shape(depth=8, width=64, num_heads=2, context=32, batch_size=2, blocks_a_shard=2)


def test_a_model_larger_than_its_device_trains_as_foretold():
    memory_bytes = 3 << 20
    found = run(SMALL, CpuDevice(memory_bytes), 3, 0.05)
    assert found["state_bytes"] > found["peak_device_bytes"] / 2 > 0
    assert found["peak_device_bytes"] <= found["device_budget_bytes"] == memory_bytes
    assert found["num_parameters"] == sum(p.numel() for layer in SMALL.layers() for p in layer.parameters())
    assert (found["num_shards"], found["num_steps"], len(found["losses"])) == (4, 3, 3)
    assert found["losses"][-1] < found["losses"][0]
    assert found["error_fraction"] == pytest.approx(found["simulated_step_s"] / found["step_s"] - 1)
    assert set(found["phases_s"]) == {"build", "prepare", "profile", "simulate", "train"}
    assert json.dumps(found)


def test_blocks_start_alike_and_are_not_one():
    first, second = SMALL.layers()[1:3]
    assert torch.equal(first.qkv.weight, second.qkv.weight)
    assert first.qkv.weight is not second.qkv.weight
    assert SMALL.cuts == (3, 5, 7)
