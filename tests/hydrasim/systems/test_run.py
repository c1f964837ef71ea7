"""Driving a system: jobs go to groups as these are free, lanes never run dry, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from hydrasim import Cluster, Device, Link, Profile, TrainingJob, Workload
from hydrasim.cluster import Direction
from hydrasim.errors import ProfileError, SystemRefused
from hydrasim.mechanism import EFFECTS
from hydrasim.profile import KindProfile, Measurement
from hydrasim.systems import Build, System, simulate_system
from hydrasim.systems.deepspeed_mp_task import DeepspeedMPTask
from hydrasim.systems.saturn import Saturn
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
    with pytest.raises(SystemRefused, match=r"chain needs 9 bytes of host memory for the state .* there are 8"):
        simulate_system(workload, replace(cluster, host_memory_bytes=8), Chain(host=9))


def test_in_theory_memory_arranges_nothing():
    jobs = Workload(tuple(stack([1.0, 1.0], name=name, parameter_bytes=64) for name in "AB"))
    for system in ("deepspeed-mp-task", "deepspeed-mp-data", "spilling", "1f1b"):
        found = [
            simulate_system(jobs, peers(2, memory_bytes=memory), system, effects="theory").to_lines()
            for memory in (1, 1 << 30)
        ]
        assert found[0] == found[1]


def test_host_memory_holds_the_state_of_all_jobs_and_what_those_add_that_train_at_a_time():
    sizes = {"parameter_bytes": 64, "optimizer_bytes": 128}
    jobs = Workload(tuple(stack([1.0], name=name, **sizes) for name in "ABC"))
    for system, count, need in (("gpipe", 2, 3 * 192), ("spilling", 1, 3 * 192 + 64), ("spilling", 2, 3 * 192 + 128)):
        simulate_system(jobs, replace(peers(count), host_memory_bytes=need), system)
        with pytest.raises(SystemRefused, match=rf"{system} needs {need} bytes of host memory for the state of all"):
            simulate_system(jobs, replace(peers(count), host_memory_bytes=need - 1), system)


def measured(job: TrainingJob) -> Profile:
    """Return a profile in which passes take no time, and copies a second for 64 bytes in and two for 64 out."""
    units = {("A", phase, shard): took(0.0) for phase in Phase for shard in range(len(job.shards))}
    copies: dict[Direction, dict[int, Measurement]] = {
        "h2d": {0: took(0.0), 64: took(1.0)}, "d2h": {0: took(0.0), 64: took(2.0)}
    }  # fmt: skip
    return Profile(one(job), {"simulated": KindProfile(units, copies)}, {"A": took(0.0)})


def took(seconds: float) -> Measurement:
    return Measurement(seconds, seconds, 0.0, 1)


def test_on_a_measured_machine_what_goes_through_the_host_takes_no_less_than_copies_do():
    job, cluster = stack([1.0, 1.0], output_bytes=64), Cluster.of(2, Device(1 << 20))
    costs = measured(job).costs(cluster)
    timeline = simulate_system(one(job), cluster, "deepspeed-mp", costs=costs)
    assert times(timeline, "send") == [(0.0, 2.0), (2.0, 4.0)]
    assert timeline.header["costs"] == "measured"
    job = stack([1.0], parameter_bytes=128)  # two steps of an all-reduce, of half of it each
    timeline = simulate_system(one(job), cluster, "ddp", costs=measured(job).costs(cluster))
    assert [end_s - start_s for start_s, end_s in times(timeline, "gather")] == [4.0, 4.0]


def test_on_a_measured_machine_the_step_on_the_host_takes_time_or_is_refused():
    job, cluster = stack([1.0], parameter_bytes=64), Cluster.of(1, Device(1 << 20))
    costs = measured(job).costs(cluster)
    with pytest.raises(SystemRefused, match="step on the host would take no time.*\n  Give it host_bytes_per_s"):
        simulate_system(one(job), cluster, "spilling", costs=costs)
    with pytest.raises(SystemRefused, match="step on the host would take no time"):
        simulate_system(one(job), cluster, Saturn("spilling"), costs=costs)
    assert simulate_system(one(job), cluster, "spilling", costs=costs, effects="theory").makespan_s == 0.0
    core = replace(cluster, core_copy_bytes_per_s=64.0)
    (step,) = times(simulate_system(one(job), core, "spilling", costs=costs), "update")
    assert step[1] - step[0] == 3.0
    assert simulate_system(one(job), cluster, "spilling").header["costs"] == "stated"


@pytest.mark.parametrize("device", [Device(1 << 20, speed=1e-300), Device(1 << 20, h2d=Link(1e-310))])
def test_what_is_no_time_is_refused_as_for_sharp(device: Device):
    with pytest.raises(ProfileError, match=r"takes .* s; it must be from 0 to 1e\+12 s"):
        simulate_system(one(stack([1.0], parameter_bytes=64)), Cluster((device,)), "ddp")


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
