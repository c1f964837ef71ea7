"""Kernels to seconds by the longest of compute, memory and launch; profiles of cards that are not there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from hydrasim import simulate
from hydrasim.cluster import Bus, Cluster, Device, Link
from hydrasim.errors import ClusterError, ProfileError
from hydrasim.machines import MACHINES
from hydrasim.profile import KindProfile, Measurement, Profile
from hydrasim.roofline import (
    QUOTED,
    Efficiency,
    Kernel,
    Roofline,
    ShardKernels,
    analytic_profile,
    compute_fraction,
    extrapolate,
    link_copies,
    timed,
)
from hydrasim.workload import Phase, Shard, TrainingJob, Workload

GIB = 1 << 30
ROOF = Roofline(flops_per_s=1024.0, bytes_per_s=64.0, launch_s=0.25)
HALF = Efficiency(0.5, 0.25)


@dataclass(frozen=True)
class Card:
    name: str = "card"
    memory_bytes_per_s: float = 256.0
    flops_per_s: dict[str, float] = field(default_factory=lambda: {"fp32": 2048.0, "bf16": 8192.0})


COMPUTE, MEMORY, TINY = Kernel(2048, 64), Kernel(0, 128), Kernel(1, 1)  # 2 s, 2 s and 0.25 s under ROOF
COUNTS = {
    ("A", 0): ShardKernels((COMPUTE,), (COMPUTE, COMPUTE), (MEMORY,)),
    ("A", 1): ShardKernels((MEMORY,), (TINY,), ()),
}
WORKLOAD = Workload((TrainingJob("A", (Shard(0, 0, 64), Shard(0, 0, 64)), 2),))
CLUSTER = Cluster((Device(1 << 20, kind="card", h2d=Link(GIB, 0.5), d2h=Link(2 * GIB)),))


@pytest.mark.parametrize(
    ("kernel", "seconds"),
    [(COMPUTE, 2.0), (MEMORY, 2.0), (Kernel(1024, 128), 2.0), (TINY, 0.25), (Kernel(0, 0), 0.25)],
)
def test_a_kernel_takes_the_longest_of_compute_memory_and_launch(kernel, seconds):
    assert ROOF.seconds([kernel]) == seconds


def test_memory_bound_kernels_do_not_hide_behind_compute_bound_ones():
    assert ROOF.seconds([COMPUTE, MEMORY]) == 4.0  # of their totals it would be 3 s


def test_a_roofline_is_the_peaks_times_the_efficiency():
    assert Roofline.of(Card(), "bf16", HALF) == Roofline(4096.0, 64.0, 0.0)
    quoted = QUOTED["fp32"]
    assert Roofline.of(Card(), "fp32") == Roofline(
        2048 * quoted.compute_fraction, 256 * quoted.memory_fraction, quoted.launch_s
    )


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("fp8", "precision is 'fp8'; it is one of fp32, tf32, fp16, bf16"),
        ("fp16", "card has no peak for precision 'fp16'; it has fp32, bf16"),
    ],
)
def test_an_unknown_precision_and_a_missing_peak_are_named(precision, message):
    with pytest.raises(ClusterError, match=message):
        Roofline.of(Card(), precision)


@pytest.mark.parametrize("fields", [{"compute_fraction": 0.0}, {"memory_fraction": 1.5}, {"launch_s": -1.0}])
def test_an_impossible_efficiency_is_refused(fields):
    with pytest.raises(ClusterError, match=next(iter(fields))):
        replace(HALF, **fields)


def test_the_compute_fraction_is_that_at_which_kernels_take_what_was_measured():
    # COMPUTE takes 2 s at the peak and MEMORY 2 s whatever the FLOP/s, so 6 s are left over for two of COMPUTE.
    assert compute_fraction(ROOF, [((COMPUTE, MEMORY), 5.0), ((COMPUTE,), 3.0)]) == pytest.approx(4 / 6)
    assert compute_fraction(ROOF, [((COMPUTE,), 1.0)]) == 1.0
    with pytest.raises(ClusterError, match="say nothing of FLOP/s"):
        compute_fraction(ROOF, [((MEMORY,), 4.0)])


def test_shards_get_seconds_of_forward_and_of_backward_with_update():
    first, second = timed(WORKLOAD, COUNTS, ROOF).jobs[0].shards
    assert (first.forward_s, first.backward_s, first.parameter_bytes) == (2.0, 6.0, 64)
    assert (second.forward_s, second.backward_s) == (2.0, 0.25)


def test_a_shard_that_was_not_counted_is_named():
    with pytest.raises(ProfileError, match="shard 1 of job 'A' was not counted"):
        timed(WORKLOAD, {("A", 0): COUNTS["A", 0]}, ROOF)


def test_copies_of_any_size_follow_the_link():
    copies = link_copies(CLUSTER, "card")
    assert (copies["h2d"][0].mean_s, copies["h2d"][GIB].mean_s, copies["d2h"][GIB].mean_s) == (0.5, 1.5, 0.5)


def test_copies_go_no_faster_than_the_bus():
    device = replace(CLUSTER.devices[0], h2d=Link(GIB, shared="root"))
    cluster = Cluster((device,), buses=(Bus("root", GIB / 2),))
    assert link_copies(cluster, "card")["h2d"][GIB].mean_s == 2.0


def analytic(**options):
    return analytic_profile(WORKLOAD, CLUSTER, {"card": Card()}, "fp32", COUNTS, efficiency=HALF, **options)


def test_an_analytic_profile_is_simulated_with_its_label():
    # HALF of Card is 1024 FLOP/s and 64 B/s: F0 takes 2 s, L1 2 + 1/64 s, B0 recomputes and so takes 2 + 6 s.
    profile = analytic()
    assert profile.workload == timed(WORKLOAD, COUNTS, Roofline(1024.0, 64.0))
    units = profile.kinds["card"].units
    assert {str(phase.value) + str(shard): m.mean_s for (_, phase, shard), m in units.items()} == {
        "F0": 2.0, "L1": 2.0 + 1 / 64, "B0": 8.0, "F1": 2.0,
    }  # fmt: skip
    timeline = simulate(profile.workload, CLUSTER, "fifo", costs=profile.costs(CLUSTER), effects="theory")
    assert timeline.makespan_s == 2 * (12 + 1 / 64)
    assert timeline.header["costs"] == "analytic"
    assert simulate(profile.workload, CLUSTER, "fifo").header["costs"] == "stated"


def test_an_analytic_profile_says_how_it_was_made():
    about = analytic(provenance={"machine": "here"}).provenance
    assert about["machine"] == "here"
    assert about["efficiency"] == {
        "compute_fraction": 0.5,
        "memory_fraction": 0.25,
        "launch_s": 0.0,
        "source": "stated",
    }
    assert about["peaks"] == {"card": {"flops_per_s": 2048.0, "memory_bytes_per_s": 256.0}}


def test_every_kind_of_device_gets_its_own_seconds():
    fast = Card("fast", flops_per_s={"fp32": 4096.0})
    cluster = Cluster((*CLUSTER.devices, replace(CLUSTER.devices[0], kind="fast")))
    profile = analytic_profile(WORKLOAD, cluster, {"card": Card(), "fast": fast}, "fp32", COUNTS, efficiency=HALF)
    assert [profile.kinds[kind].units["A", Phase.FORWARD, 0].mean_s for kind in ("card", "fast")] == [2.0, 1.0]


def test_a_missing_data_sheet_is_named():
    with pytest.raises(ClusterError, match="no data sheet for 'card'; there are none"):
        analytic_profile(WORKLOAD, CLUSTER, {}, "fp32", COUNTS)


def test_the_label_survives_the_file_and_old_files_are_measured(tmp_path):
    path = tmp_path / "profile.json"
    analytic().write(path)
    assert Profile.read(path).label == "analytic"
    path.write_text(path.read_text().replace('"label": "analytic",', ""))
    assert Profile.read(path).label == "measured"
    path.write_text(path.read_text().replace('"version": 1,', '"version": 1, "label": "guessed",', 1))
    with pytest.raises(ProfileError, match="label"):
        Profile.read(path)


SLOW, FAST = Card(), Card("fast", 1024.0, {"fp32": 4096.0})
FASTER = Cluster((replace(CLUSTER.devices[0], kind="fast", h2d=Link(4 * GIB)),))


def measured() -> Profile:
    units = {
        ("A", *node): Measurement(3.0, 2.0, 0.5, 7)
        for node in ((Phase.FORWARD, 0), (Phase.LOSS, 1), (Phase.BACKWARD, 0))
    }
    kinds = {"what torch calls it": KindProfile(units, link_copies(CLUSTER, "card"), units)}
    return Profile(
        WORKLOAD, kinds, {"A": Measurement(0.5, 0.5, 0, 1)}, {"host": "there"}, CLUSTER, slowdowns={"A": 2.0}
    )


def test_without_counts_units_scale_by_the_peaks_and_copies_by_the_new_links():
    moved = extrapolate(measured(), SLOW, FAST, "fp32", FASTER)
    kind = moved.kinds["fast"]
    assert kind.units["A", Phase.LOSS, 1] == Measurement(1.5, 1.0, 0.5, 7)
    assert kind.first_units == kind.units
    assert kind.copies["h2d"][GIB].mean_s == 0.25
    assert (moved.label, moved.fetches["A"].mean_s, moved.slowdowns, moved.cluster) == ("extrapolated", 0.5, {}, FASTER)
    assert (moved.provenance["extrapolated_from"], moved.provenance["extrapolated_to"]) == ("card", "fast")
    assert moved.provenance["source"] == {"host": "there"}


def test_with_counts_memory_bound_units_scale_by_bandwidth():
    big = {
        key: ShardKernels((kernel,), (), ())
        for key, kernel in ((("A", 0), Kernel(1 << 40, 0)), (("A", 1), Kernel(0, 1 << 40)))
    }
    units = extrapolate(measured(), SLOW, FAST, "fp32", FASTER, counts=big).kinds["fast"].units
    assert units["A", Phase.FORWARD, 0].mean_s == pytest.approx(1.5)
    assert units["A", Phase.LOSS, 1].mean_s == pytest.approx(0.75)


def test_a_profile_of_several_kinds_must_name_the_source():
    profile = measured()
    two = replace(profile, kinds={"x": KindProfile(), "y": KindProfile()})
    with pytest.raises(ProfileError, match="kinds x, y, and none is 'card'"):
        extrapolate(two, SLOW, FAST, "fp32", FASTER)
    with pytest.raises(ClusterError, match="no device of kind 'fast'; it has card"):
        extrapolate(profile, SLOW, FAST, "fp32", CLUSTER)


def test_every_card_of_every_machine_has_a_roofline_for_each_peak():
    for machine in MACHINES.values():
        for card in machine.accelerators.values():
            for precision, peak in card.flops_per_s.items():
                assert 0 < Roofline.of(card, precision).flops_per_s < peak
