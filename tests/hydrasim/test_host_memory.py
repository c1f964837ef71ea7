"""Host memory: what counts, what goes to disk and comes back, what waits for what, and who is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import OURS, Cluster, Device, Plan, Shard, ShardUnit, TrainingJob, simulate
from hydrasim.cluster import Disk
from hydrasim.command import HOST, Command, Kind, Lane, normal_form
from hydrasim.errors import HostMemoryTooSmall
from hydrasim.host_memory import HostMemory
from hydrasim.plan import Step
from hydrasim.planning import make_plan
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.workload import Workload
from tests.worlds import BLOCK, BYTE_A_SECOND, Script, devices, heavy, times, workload

ONE_BY_ONE = replace(OURS, prefetch=False)
SLOW_DISK = Disk(BYTE_A_SECOND, BYTE_A_SECOND)
PAGES = (Kind.READ, Kind.WRITE)


def host(cluster: Cluster, blocks: int, disk: Disk | None = SLOW_DISK) -> Cluster:
    """Return the cluster with so many blocks of host memory."""
    return replace(cluster, host_memory_bytes=blocks * BLOCK, disk=disk)


def commands_of(jobs: Workload, cluster: Cluster, policy: object = "fifo", **options: object) -> list[Command]:
    commands: list[Command] = []
    simulate(jobs, cluster, policy, commands=commands, **({"mechanism": ONE_BY_ONE} | options))  # type: ignore[arg-type]
    return commands


def pages(commands: list[Command]) -> list[str]:
    return [str(command) for command in commands if command.kind in PAGES]


def two(mode: str = "recompute", **fields: object) -> TrainingJob:
    """Return a job of two shards with a block each of state, boundary and activations."""
    shard = Shard(1.0, 1.0, BLOCK, output_bytes=BLOCK, activation_bytes=BLOCK)
    return TrainingJob("A", (shard,) * 2, 1, activation_mode=mode, **fields)


# What counts


def test_with_plenty_of_host_memory_the_commands_are_the_same():
    jobs = workload(heavy("A", shards=2, minibatches=2), heavy("B"))
    plenty = devices(2, 2, BYTE_A_SECOND)
    assert normal_form(commands_of(jobs, plenty)) == normal_form(commands_of(jobs, host(plenty, 3)))
    assert not pages(commands_of(jobs, host(plenty, 3)))


@pytest.mark.parametrize(
    ("job", "blocks"),
    [
        (two(), 2 + 1 + 1),  # state, x1, g0
        (two(input_bytes=BLOCK), 2 + 2 + 1),  # x0 stays for the backward
        (two("keep"), 2 + 1 + 1),
        (two("spill"), 2 + 1 + 1 + 1),
    ],
)
def test_the_peak_counts_state_boundaries_and_spilled_activations(job: TrainingJob, blocks: int):
    _, timeline = make_plan(workload(job), devices(1), "fifo")
    assert timeline.header["host_peak_bytes"] == blocks * BLOCK


def test_a_boundary_counts_until_nobody_needs_it():
    jobs = workload(two())
    memory = HostMemory(jobs, devices())
    key = next(key for key in memory.homes if key.kind == "w")._replace(kind="g", minibatch=0)
    memory.create(key)
    memory.forget(key)
    memory.create(key)
    assert memory.peak_bytes == 3 * BLOCK


def test_a_boundary_is_stored_into_its_place_once_the_last_minibatch_has_left_it():
    # gpu0 stores x1#0 slowly and has it; F0#1 runs on gpu1, whose store of x1#1 waits for the place
    job = replace(two(), minibatches=2)
    script = Script({"A/F0#1": 1})
    stores = [c for c in commands_of(workload(job), devices(2, link=BYTE_A_SECOND), script) if c.kind is Kind.STORE]
    first, second = (c for c in stores if c.block is not None and (c.block.kind, c.block.shard) == ("x", 1))
    assert first.number in second.after


# Disk


def test_state_that_does_not_fit_is_read_before_it_is_loaded_and_written_before_it_makes_room():
    jobs = workload(heavy("A"), heavy("B"))
    commands = commands_of(jobs, host(devices(1, 2), 1))
    assert pages(commands) == ["read A/L0#0 A/w0", "write B/L0#0 A/w0", "read B/L0#0 B/w0"]
    assert not pages(commands_of(jobs, host(devices(1, 2), 2)))


def test_reads_and_writes_stand_in_the_queue_of_the_disk_and_take_its_time():
    # disk  rA          wA rB       each takes 64
    # gpu0     lA A sA        lB B
    cluster = host(devices(1, 2, BYTE_A_SECOND), 1)
    timeline = simulate(workload(heavy("A"), heavy("B")), cluster, "fifo", mechanism=ONE_BY_ONE)
    assert times(timeline, "read") == [(0.0, 64.0), (320.0, 384.0)]
    assert times(timeline, "write") == [(256.0, 320.0)]
    assert times(timeline, "load") == [(64.0, 128.0), (384.0, 448.0)]
    lanes = {(span.device, span.lane) for span in timeline.spans if span.kind in ("read", "write")}
    assert lanes == {(HOST, Lane.DISK.value)}


def test_state_that_a_device_has_newer_is_dropped_and_not_written():
    # A's update stays on the device until the end; its old copy in host memory makes room for B
    jobs = workload(heavy("A", minibatches=2), heavy("B"))
    commands = commands_of(jobs, host(devices(1, 2), 1), order("A/L0#0 B/L0#0 A/L0#1"), mechanism=OURS)
    assert pages(commands) == ["read A/L0#0 A/w0", "read B/L0#0 B/w0", "write A/L0#1 B/w0"]


def test_unchanged_state_is_dropped_and_not_written():
    # F0's w0 makes room for w1; L1 has updated that one, so it is written when B0 wants w0 again
    jobs = workload(heavy("A", shards=2))
    assert pages(commands_of(jobs, host(devices(1, 1), 1))) == [
        "read A/F0#0 A/w0",
        "read A/L1#0 A/w1",
        "write A/B0#0 A/w1",
        "read A/B0#0 A/w0",
    ]


def order(*lists: str, jobs: Workload | None = None) -> FollowPlan:
    steps = tuple(tuple(Step(ShardUnit.parse(unit)) for unit in units.split()) for units in lists)
    names = dict.fromkeys(step.unit.job for device in steps for step in device)
    count = {name: 1 + max(s.unit.minibatch for d in steps for s in d if s.unit.job == name) for name in names}
    jobs = jobs or workload(*(heavy(name, minibatches=count[name]) for name in names))
    return FollowPlan(Plan(steps, jobs.digest, ""))


def test_what_is_used_last_makes_room_under_a_plan_else_what_was_used_first():
    # one block on the device, three on the host. D takes the place of B, whose turn comes last, or of A; never of C,
    # which the unit before has yet to store
    jobs = workload(*(heavy(name, minibatches=2) for name in "ABC"), heavy("D"))
    plan = order("A/L0#0 B/L0#0 C/L0#0 D/L0#0 A/L0#1 B/L0#1 C/L0#1")
    latest = order("A/L0#0 B/L0#0 C/L0#0 D/L0#0 A/L0#1 C/L0#1 B/L0#1")
    for followed in (plan, latest):
        assert "write D/L0#0 B/w0" in pages(commands_of(jobs, host(devices(1, 1), 3), followed))
    lru = replace(ONE_BY_ONE, eviction="lru")
    assert "write D/L0#0 A/w0" in pages(commands_of(jobs, host(devices(1, 1), 3), plan, mechanism=lru))


def test_a_read_waits_for_the_loads_of_what_it_takes_the_place_of():
    #   disk  rA rB ..      B is read only once the slow link has taken A away
    #   h2d      lA
    cluster = host(devices(1, 2, BYTE_A_SECOND), 1, Disk())
    jobs = workload(TrainingJob("A", (Shard(0.0, 0.0, BLOCK),), 1, fused=False), heavy("B"))
    timeline = simulate(jobs, cluster, "round-robin", mechanism=OURS)
    assert times(timeline, "load")[0] == (0.0, 64.0)
    assert times(timeline, "read")[:2] == [(0.0, 0.0), (64.0, 64.0)]


def test_a_plan_fixes_what_moves_between_host_and_disk_on_several_devices():
    # the clock must not decide what is in host memory: gpu1's slow units change nothing but time
    jobs = workload(heavy("A", minibatches=3), heavy("B", minibatches=3), heavy("C", minibatches=3))
    plan = order("A/L0#0 C/L0#0 A/L0#1 C/L0#1 A/L0#2 C/L0#2", "B/L0#0 B/L0#1 B/L0#2", jobs=jobs)
    forms = []
    for speed in (1.0, 0.25):
        fast, slow = Device(BLOCK), Device(BLOCK, speed)
        cluster = host(Cluster((fast, slow)), 1)
        forms.append(normal_form(commands_of(jobs, cluster, plan, mechanism=OURS)))
    assert forms[0] == forms[1]
    assert len(forms[0][f"{HOST}:disk"]) > 6


# Refusal


def test_without_a_disk_all_must_fit_host_memory():
    jobs = workload(two("spill"))
    simulate(jobs, host(devices(), 5, None), "fifo")
    message = (
        r"the jobs need 320 bytes of host memory: 128 for state and 192 for the boundaries and spilled activations of "
        r"a mini-batch of every job; the cluster has host_memory_bytes 256 and no disk\.\n  Give it a disk or more"
    )
    with pytest.raises(HostMemoryTooSmall, match=message):
        simulate(jobs, host(devices(), 4, None), "fifo")


def test_beside_a_disk_host_memory_holds_the_largest_state_and_all_boundaries():
    jobs = workload(two("spill"))
    simulate(jobs, host(devices(), 4), "fifo")
    message = (
        "the jobs need 256 bytes of host memory beside the disk: 192 for the boundaries .* 64 for the largest shard"
    )
    with pytest.raises(HostMemoryTooSmall, match=message):
        simulate(jobs, host(devices(), 3), "fifo")


def test_in_theory_nothing_lies_in_host_memory():
    assert simulate(workload(two()), host(devices(), 1, None), "fifo", effects="theory").makespan_s == 5.0
