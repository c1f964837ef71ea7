"""DeepSpeed's settings; that it trains the same is checked by each race, where it is installed."""

from __future__ import annotations

from experiments.peers.contender import Rank, Task
from experiments.peers.contenders.zero3_offload import Zero3Offload
from tests.experiments.peers.worlds import TINY


def test_zero3_is_configured_to_train_the_same():
    contender = object.__new__(Zero3Offload)  # without a group of ranks, and without DeepSpeed
    contender.task, contender.rank = Task(TINY, "adamw"), Rank(0, 2)
    config = contender._config(Zero3Offload.offers("adamw")[0])
    assert config["gradient_clipping"] == 0.0
    assert config["train_batch_size"] == 2 * config["train_micro_batch_size_per_gpu"] == 8
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["stage3_max_live_parameters"] * 4 == TINY.state_bytes("adamw") // 2
    assert all("adam" not in options for options in Zero3Offload.offers("sgd"))
