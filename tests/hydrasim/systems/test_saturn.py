"""Saturn: what its trials find, what its plans do on the devices, and when it changes them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from hydrasim import Cluster, Device, Link, Shard, Timeline, TrainingJob, Workload
from hydrasim.errors import SystemRefused
from hydrasim.mechanism import Effects
from hydrasim.profile import StatedCosts
from hydrasim.systems import make_system, simulate_system
from hydrasim.systems.saturn import Estimate, Saturn, SaturnRun, pools
from tests.worlds import spans, workload

MEMORY = 1 << 20


def job(name: str, seconds: float, minibatches: int = 1, nbytes: int = 0, **fields: object) -> TrainingJob:
    """Return a job of one layer whose mini-batch takes so long on one device; nbytes: of parameters."""
    shard = Shard(seconds / 2, seconds / 2, parameter_bytes=nbytes)
    return TrainingJob(name, (shard,), minibatches, activation_mode="keep", fused=False, **fields)


def machine(count: int, peer: float = 64.0, **fields: object) -> Cluster:
    """Return equal devices that send so many bytes a second to each other."""
    return Cluster((Device(MEMORY, peer=Link(peer)),) * count, **fields)


def placed(timeline: Timeline) -> dict[str, tuple[str, list[int], float]]:
    """Return by job its technique, devices and start of the first plan."""
    return {name: tuple(plan.values()) for name, plan in timeline.header["solver"]["jobs"].items()}


def test_two_devices_go_to_the_job_that_gains_by_them():
    # gpu0 A A A A A     8 s become 4, and 1 to all-reduce 64 bytes; B would send 64 times as much
    # gpu1 A A A A A
    # gpu2 B B B B B
    jobs = workload(job("A", 8.0, nbytes=64), job("B", 5.0, nbytes=64 * 64))
    timeline = simulate_system(jobs, machine(3), Saturn("ddp"))
    assert placed(timeline) == {"A": ("ddp", [0, 1], 0.0), "B": ("ddp", [2], 0.0)}
    assert timeline.makespan_s == 5.0
    solver = timeline.header["solver"]
    assert {key: solver[key] for key in ("at_s", "status", "makespan_s", "bound_s", "gap_fraction", "taken")} == {
        "at_s": 0.0, "status": "optimal", "makespan_s": 5.0, "bound_s": 5.0, "gap_fraction": 0.0, "taken": True,
    }  # fmt: skip


def test_a_technique_that_refuses_a_job_is_left_out():
    # three layers of 64 bytes: DDP needs 3 x 64 of each, a slice of one layer 2 x 64
    jobs = workload(replace(job("A", 1.0, nbytes=64), shards=job("A", 1.0, nbytes=64).shards * 3))
    for memory_bytes, technique in ((9 * 64, "ddp"), (9 * 64 - 1, "spilling"), (2 * 64, "spilling")):
        cluster = Cluster.of(1, Device(memory_bytes, h2d=Link(64.0)))
        timeline = simulate_system(jobs, cluster, Saturn("ddp,spilling"))
        assert placed(timeline)["A"][0] == technique
        assert timeline.header["peak_bytes"][0] <= memory_bytes
    with pytest.raises(SystemRefused, match="saturn on 1 devices needs 128 bytes of device 0 for 'A'; it has 127"):
        simulate_system(jobs, Cluster.of(1, Device(127)), Saturn("ddp,spilling"))


def test_a_job_waits_for_its_devices_and_nobody_overtakes():
    # gpu0 A A C C      C needs both: DDP on one device has no room
    # gpu1 B . C C
    jobs = workload(job("A", 2.0), job("B", 1.0), job("C", 4.0, minibatches=2))
    timeline = simulate_system(jobs, machine(2, peer=1.0), Saturn("gpipe,ddp"))
    begun = {name: min(span.start_s for span in timeline.spans if span.job == name) for name in "ABC"}
    for name, (_, devices, start_s) in placed(timeline).items():
        assert begun[name] == start_s
        assert {span.device for span in spans(timeline, "compute") if span.job == name} == set(devices)
    assert timeline.makespan_s == timeline.header["solver"]["makespan_s"]


def test_a_trial_tells_the_first_mini_batch_from_the_others():
    assert Estimate("ddp", 2, 0, first_s=4.0, minibatch_s=1.0).seconds(3) == 6.0
    # fetching takes 1 s and computing 2: mini-batches follow each other after 2 s, the first one ends after 3
    timeline = simulate_system(workload(job("A", 2.0, 5, fetch_s=1.0)), machine(1), Saturn("ddp"))
    assert timeline.header["solver"]["makespan_s"] == timeline.makespan_s == 3.0 + 4 * 2.0


def growing(interval_s: float, effects: Effects = "overheads", **fields: float) -> Timeline:
    """Return a run of A, whose 12 mini-batches take 1 s each or 0.75 s on both devices, beside 6 s of B on one."""
    jobs = workload(job("A", 1.0, 12, nbytes=64), job("B", 1.0, 6, nbytes=1 << 12))
    saturn = Saturn("ddp", interval_s=interval_s, **fields)
    return simulate_system(jobs, machine(2, peer=256.0), saturn, effects=effects)


def test_without_introspection_the_first_plan_is_followed():
    timeline = growing(float("inf"))
    assert (timeline.makespan_s, timeline.header["introspection"]) == (12.0, [])


def test_introspection_gives_a_job_the_devices_that_became_free():
    # gpu0 AAAAAAAA aaa      B ends at 6. At 6.5 A's mini-batches 6 and 7 are under way;
    # gpu1 BBBBBB.. aaa      the other four take 0.75 each
    timeline = growing(6.5, threshold_s=0.5)
    assert timeline.makespan_s == 11.0
    (look,) = timeline.header["introspection"]
    assert (look["at_s"], look["taken"], look["makespan_s"]) == (6.5, True, 2.0 + 4 * 0.75)
    assert look["jobs"] == {"A": {"technique": "ddp", "devices": [0, 1], "start_s": 0.0}}
    assert [span.device for span in spans(timeline, "compute", "A/B0#7")] == [0]
    assert [span.device for span in spans(timeline, "compute", "A/B0#8")] == [0, 1]
    assert [span.nbytes for span in spans(timeline, "store", "A/F0#7")] == [64]  # the checkpoint
    assert [span.nbytes for span in spans(timeline, "load", "A/F0#8")] == [64]


def test_a_plan_that_is_not_better_by_the_threshold_is_not_taken():
    # 1 s is to be gained
    assert growing(6.5, threshold_s=0.75).makespan_s == 11.0
    assert growing(6.5, threshold_s=1.0).makespan_s == 12.0


def test_a_restart_costs_and_is_reckoned_with():
    assert growing(6.5, threshold_s=0.0, restart_s=0.5).makespan_s == 11.5
    assert growing(6.5, threshold_s=0.0, restart_s=1.0).makespan_s == 12.0
    assert growing(6.5, threshold_s=0.0, restart_s=1.0, effects="theory").makespan_s < 12.0


class Crowded(StatedCosts):
    """A takes twice as long while three devices compute, which no trial on one or two of them can find."""

    def slowdown(self, job: str, num_computing: int) -> float:
        return 2.0 if job == "A" and num_computing == 3 else 1.0


def test_wrong_estimates_are_mended_by_introspection():
    # gpu0 A A A A A A A A AA aaaaaa     planned to end at 16 like the others, A is half done then: 8 s are left.
    # gpu1 BBBBBBBBBBBBBBBB.. aaaaaa     At 16.5 that is seen, and A goes on on two devices.
    # gpu2 CCCCCCCCCCCCCCCC
    jobs = workload(job("A", 1.0, 16, nbytes=64), *(job(name, 1.0, 16, nbytes=1 << 12) for name in "BC"))
    cluster = machine(3, peer=256.0)
    ends_s = [
        simulate_system(
            jobs, cluster, Saturn("ddp", "1,2", interval_s=interval_s, threshold_s=0.5), costs=Crowded(jobs, cluster)
        ).makespan_s
        for interval_s in (16.5, float("inf"))
    ]
    assert ends_s == [22.5, 24.0]


def test_under_noise_it_plans_and_ends():
    cluster = replace(machine(2, peer=256.0), variation=0.25)
    jobs = workload(*(job(name, 1.0, 8, nbytes=64) for name in "ABC"))
    first, second = (
        simulate_system(jobs, cluster, Saturn("ddp", interval_s=2.0, threshold_s=0.25), effects="noise", seed=3)
        for _ in range(2)
    )
    assert first.to_lines() == second.to_lines()
    assert len([span for span in first.spans if span.kind == "fetch"]) == 24


def test_a_job_that_arrives_has_all_planned_again():
    # gpu0 A A a a a a a     A has both devices at 0.75 s a mini-batch until B comes; both then go on side by side
    # gpu1 A A . B B B B
    late = job("B", 1.0, 8, nbytes=1 << 12, arrival_s=1.5)
    jobs = workload(job("A", 1.0, 12, nbytes=64), late)
    timeline = simulate_system(jobs, machine(2, peer=256.0), Saturn("ddp"))
    first, again = timeline.header["solver"], *timeline.header["introspection"]
    assert (list(first["jobs"]), first["jobs"]["A"]["devices"], sorted(again["jobs"])) == (["A"], [0, 1], ["A", "B"])
    assert (again["at_s"], again["taken"]) == (1.5, True)
    assert all(span.start_s >= 1.5 for span in timeline.spans if span.job == "B")


def test_devices_that_differ_are_different_nodes():
    fast, slow = Device(MEMORY, speed=2.0, peer=Link(64.0)), Device(MEMORY, peer=Link(64.0))
    cluster = Cluster((fast, slow, slow, fast))
    assert pools(cluster) == [(0, 3), (1, 2)]
    timeline = simulate_system(workload(job("A", 8.0), job("B", 4.0)), cluster, Saturn("ddp"))
    assert {name: plan[1] for name, plan in placed(timeline).items()} == {"A": [0, 3], "B": [1, 2]}
    assert timeline.makespan_s == 2.0


def random_jobs(seed: int) -> Workload:
    random = Random(seed)
    return workload(
        *(
            TrainingJob(
                f"j{n}",
                tuple(
                    Shard(seconds, 2 * seconds, 64 * size, 64 * size, output_bytes=64, working_bytes=64)
                    for seconds, size in ((random.randint(1, 8) / 8, random.randint(1, 16)) for _ in range(4))
                ),
                random.randint(2, 6),
            )
            for n in range(5)
        )
    )


@pytest.mark.parametrize("seed", range(4))
def test_it_is_no_slower_than_one_job_after_another_at_its_best_on_all_devices(seed: int):
    link = Link(1024.0)
    cluster = Cluster.of(3, Device(64 * 256, h2d=link, d2h=link, peer=link))
    jobs, total_s = random_jobs(seed), 0.0
    for each in jobs.jobs:
        found = []
        for technique in ("ddp", "fsdp", "fsdp-offload", "gpipe"):
            try:
                found.append(simulate_system(workload(each), cluster, technique, effects="transfers").makespan_s)
            except SystemRefused:
                continue
        total_s += min(found)
    saturn = simulate_system(jobs, cluster, Saturn(time_limit_s=0.5), effects="transfers")
    assert saturn.makespan_s <= total_s
    assert saturn.makespan_s == pytest.approx(saturn.header["solver"]["makespan_s"], rel=1e-6)


def test_only_numbers_of_devices_that_are_asked_for_are_tried():
    assert Saturn().counts(3) == [1, 2, 3]
    assert Saturn(device_counts="1,2,8").counts(4) == [1, 2]
    run = SaturnRun(workload(job("A", 8.0)), machine(4), Saturn("ddp", "2,4"), costs(), "transfers")
    assert [(e.num_devices, e.first_s) for e in run._estimates["A"]] == [(2, 4.0), (4, 2.0)]


def costs() -> StatedCosts:
    return StatedCosts(workload(job("A", 8.0)), machine(4))


def test_before_any_plan_it_is_the_technique_that_needs_least():
    one = workload(job("A", 1.0, nbytes=64)).jobs[0]
    assert Saturn("ddp,spilling").memory_bytes(one, machine(1), (0,)) == [128]
    assert Saturn("ddp,spilling").memory_bytes(one, machine(2), (0, 1)) == [192, 192]
    with pytest.raises(SystemRefused, match="none of spilling trains 'A' on 2 devices"):
        Saturn("spilling").memory_bytes(one, machine(2), (0, 1))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"techniques": "saturn,ddp"}, "saturn cannot be a technique of its own"),
        ({"techniques": "ddp,saturn:interval_s=1"}, "saturn cannot be a technique of its own"),
        ({"device_counts": "1,0"}, "device_counts has '0'; write numbers from 1 on"),
        ({"device_counts": "1;2"}, "device_counts has '1;2'"),
        ({"interval_s": "0"}, "interval_s is 0.0; it must be above 0"),
        ({"time_limit_s": "nan"}, "time_limit_s is nan"),
        ({"device_counts": "1," + "9" * 4400}, "device_counts has '9{20}...'; write numbers"),
        ({"restart_s": "inf"}, "restart_s is inf; it must be from 0 to"),
        ({"restart_s": "1e300"}, r"restart_s is 1e\+300; it must be from 0 to 1e\+12"),
        ({"threshold_s": "-1"}, "threshold_s is -1.0; it must not be negative"),
    ],
)
def test_options_are_checked(options: dict[str, str], complaint: str):
    with pytest.raises(SystemRefused, match=complaint):
        make_system("saturn", options)


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(SystemRefused, match="device_counts is 16; at most 2 devices are identical"):
        simulate_system(workload(job("A", 1.0)), machine(2), Saturn(device_counts="16"))


def test_trials_meet_no_noise():
    cluster, jobs = replace(machine(1), variation=0.5), workload(job("A", 1.0, 4))
    plans = [simulate_system(jobs, cluster, Saturn("ddp"), effects=e).header["solver"] for e in ("overheads", "noise")]
    assert plans[0] == plans[1]


def test_host_memory_holds_the_state_of_all_jobs_and_what_one_adds():
    jobs = workload(*(job(name, 1.0, nbytes=64) for name in "AB"))
    assert simulate_system(jobs, machine(1, host_memory_bytes=192), Saturn("spilling")).makespan_s == 3.0
    for nbytes, needs in ((191, "spilling needs 192"), (127, "saturn needs 128")):
        with pytest.raises(SystemRefused, match=f"{needs} bytes of host memory .* there are {nbytes}"):
            simulate_system(jobs, machine(1, host_memory_bytes=nbytes), Saturn("spilling"))


def test_techniques_have_options():
    # one byte short of keeping what its forwards leave, so A is trained with recomputation, which takes longer
    shard = Shard(1.0, 2.0, activation_bytes=64, working_bytes=64)
    jobs, library = workload(TrainingJob("A", (shard,) * 2, 1)), "ddp:recompute=true,ddp:recompute=false"
    for memory_bytes, technique in ((3 * 64, "ddp:recompute=false"), (3 * 64 - 1, "ddp:recompute=true")):
        timeline = simulate_system(jobs, Cluster.of(1, Device(memory_bytes)), Saturn(library))
        assert placed(timeline)["A"][0] == technique
    with pytest.raises(SystemRefused, match="system ddp has no option 'recompile'"):
        simulate_system(jobs, machine(1), Saturn("ddp:recompile=true"))


def test_a_technique_that_there_is_not_is_refused():
    with pytest.raises(SystemRefused, match="no system is named 'alpa'"):
        simulate_system(workload(job("A", 1.0)), machine(1), Saturn("alpa"))
