"""Forward and backward passes, taken apart from SHARP's units."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from hydrasim import Cluster, Device, Phase, Profile, Shard, TrainingJob, Workload
from hydrasim.errors import ProfileError
from hydrasim.profile import KindProfile, Measurement, StatedCosts
from hydrasim.roofline import Efficiency, Kernel, ShardKernels, analytic_profile, extrapolate
from hydrasim.systems.passes import Passes, saved_bytes

CLUSTER = Cluster.of(1, Device(64, kind="test"))


@dataclass(frozen=True)
class Card:
    name: str = "test"
    memory_bytes_per_s: float = 1.0
    flops_per_s: dict[str, float] = field(default_factory=lambda: {"fp32": 1.0})


def took(seconds: float) -> Measurement:
    return Measurement(seconds, seconds, 0.0, 1)


def job(mode: str, *, fused: bool = True) -> TrainingJob:
    return TrainingJob("A", (Shard(1.0, 2.0),) * 2, 2, fused=fused, activation_mode=mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["keep", "recompute", "spill"])
@pytest.mark.parametrize("fused", [True, False])
def test_stated_passes_never_recompute(mode: str, fused: bool):
    trained = job(mode, fused=fused)
    passes = Passes(trained, StatedCosts(Workload((trained,)), CLUSTER))
    assert [passes.forward_s(shard, 0, 0) for shard in (0, 1)] == [1.0, 1.0]
    assert [passes.backward_s(shard, 0, 0) for shard in (0, 1)] == [2.0, 2.0]


def test_of_a_last_shard_measured_whole_a_third_is_its_forward():
    trained = job("recompute")
    units = {
        ("A", Phase.FORWARD, 0): took(1.0),
        ("A", Phase.BACKWARD, 0): took(4.0),  # of which a forward, again
        ("A", Phase.LOSS, 1): took(6.0),
    }
    first = {("A", Phase.LOSS, 1): took(12.0)}
    profile = Profile(Workload((trained,)), {"test": KindProfile(units, {}, first)}, {})
    passes = Passes(trained, profile.costs(CLUSTER))
    assert [passes.backward_s(0, 0, minibatch) for minibatch in (0, 1)] == [3.0, 3.0]
    assert [passes.forward_s(1, 0, minibatch) for minibatch in (0, 1, 2)] == [4.0, 2.0, 2.0]
    assert [passes.backward_s(1, 0, minibatch) for minibatch in (0, 1, 2)] == [8.0, 4.0, 4.0]


def test_counted_kernels_know_the_last_forward():
    counts = {("A", 0): ShardKernels((Kernel(64, 0),), (Kernel(256, 0),), ())}
    trained, card = TrainingJob("A", (Shard(1.0, 1.0),), 1), Card()
    profile = analytic_profile(
        Workload((trained,)), CLUSTER, {"test": card}, "fp32", counts, efficiency=Efficiency(1.0, 1.0)
    )
    for found in (profile, extrapolate(profile, card, replace(card, flops_per_s={"fp32": 2.0}), "fp32", CLUSTER)):
        passes = Passes(found.workload.jobs[0], found.costs(CLUSTER))
        assert passes.backward_s(0, 0, 0) == 4 * passes.forward_s(0, 0, 0) > 0


def test_what_was_not_measured_is_missed():
    trained = job("keep", fused=False)
    passes = Passes(trained, Profile(Workload((trained,)), {"test": KindProfile()}, {}).costs(CLUSTER))
    with pytest.raises(ProfileError, match="A/F1#0"):
        passes.forward_s(1, 0, 0)


def test_what_a_forward_leaves_is_the_units_peak_where_it_is_not_stated():
    shards = (Shard(1.0, 1.0, activation_bytes=8, working_bytes=16), Shard(1.0, 1.0, working_bytes=16))
    trained = TrainingJob("A", shards, 1)
    assert [saved_bytes(trained, shard) for shard in (0, 1)] == [8, 16]
