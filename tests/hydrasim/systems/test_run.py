"""Driving a system: jobs go to groups as these are free, lanes never run dry, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from hydrasim import Cluster, Link, TrainingJob, Workload
from hydrasim.errors import SystemRefused
from hydrasim.mechanism import EFFECTS
from hydrasim.systems import Build, System, simulate_system
from hydrasim.systems.deepspeed_mp_task import DeepspeedMPTask
from hydrasim.workload import Phase
from tests.hydrasim.systems.pipelines import one, peers, stack
from tests.worlds import spans, times


@dataclass(frozen=True)
class Chain(System):
    """Load a mini-batch's 64 bytes, compute for a second; nothing else holds mini-batches back.

    Source: this test.
    """

    host: int = 0

    def memory_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> list[int]:
        return [8] * len(devices)

    def host_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> int:
        return self.host

    def minibatch(self, build: Build, minibatch: int) -> None:
        loaded = build.feed(0, 64, minibatch, build.fetch(minibatch))
        build.compute(0, Phase.FORWARD, 0, minibatch, 1.0, [loaded])


def world(minibatches: int = 4) -> tuple[Workload, Cluster]:
    device = replace(peers(1).devices[0], h2d=Link(64))
    return one(stack([1.0], minibatches=minibatches)), Cluster((device,))


def test_two_mini_batches_are_on_their_way_at_a_time():
    # h2d      L0 L1 L2 L3
    # compute  .  C0 C1 C2 C3
    timeline = simulate_system(*world(), Chain())
    assert times(timeline, "load") == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]
    assert timeline.makespan_s == 5.0


def test_the_timeline_says_whose_it_is():
    header = simulate_system(*world(), Chain(), effects="transfers", seed=7).header
    found = {key: header[key] for key in ("label", "policy", "system", "effects", "seed", "peak_bytes")}
    expected = {"label": "simulated", "policy": "chain", "system": "chain", "effects": "transfers", "seed": 7}
    assert found == expected | {"peak_bytes": [8]}


def test_in_theory_only_computing_takes_time_and_there_is_memory_enough():
    workload, cluster = world()
    tight = Cluster((replace(cluster.devices[0], memory_bytes=1),), host_memory_bytes=1)
    assert simulate_system(workload, tight, Chain(host=2), effects="theory").makespan_s == 4.0


def test_noise_has_a_seed():
    workload, cluster = world()
    noisy = replace(cluster, variation=0.25)
    ends = [simulate_system(workload, noisy, Chain(), effects="noise", seed=seed).makespan_s for seed in (1, 1, 2)]
    assert ends[0] == ends[1] != ends[2]
    assert len({simulate_system(workload, cluster, Chain(), effects=effects).makespan_s for effects in EFFECTS}) == 2


def test_memory_of_device_and_host_is_refused_with_the_numbers():
    workload, cluster = world()
    tight = Cluster((replace(cluster.devices[0], memory_bytes=7),))
    with pytest.raises(SystemRefused, match=r"chain on 1 devices needs 8 bytes of device 0 for 'A'; it has 7"):
        simulate_system(workload, tight, Chain())
    with pytest.raises(SystemRefused, match=r"chain needs 9 bytes of host memory for 'A'; there are 8"):
        simulate_system(workload, replace(cluster, host_memory_bytes=8), Chain(host=9))


def test_a_job_starts_when_it_arrives_and_a_group_is_free():
    early, late = stack([1.0], name="A"), replace(stack([1.0], name="B"), arrival_s=2.0)
    alone = simulate_system(Workload((early, late)), peers(1), DeepspeedMPTask())
    assert [span.start_s for span in spans(alone, "compute", "B/F0#0")] == [3.0]
    beside = simulate_system(Workload((early, late)), peers(2), DeepspeedMPTask())
    assert [(span.device, span.start_s) for span in spans(beside, "compute", "B/F0#0")] == [(1, 2.0)]
    after = simulate_system(Workload((early, replace(late, arrival_s=8.0))), peers(1), DeepspeedMPTask())
    assert after.makespan_s == 11.0


def test_effects_that_there_are_not_are_refused():
    with pytest.raises(SystemRefused, match="effects 'all' is unknown; there are theory, "):
        simulate_system(*world(), Chain(), effects="all")  # type: ignore[arg-type]
