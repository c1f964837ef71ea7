"""The paper's worlds: their exact sizes, and what the paper says must come out of them."""

import pytest

from hydrasim import simulate
from hydrasim.errors import ClusterError, WorkloadError
from hydrasim.optimum.bounds import lower_bounds
from hydrasim.presets import Preset, make_preset
from hydrasim.profile import StatedCosts

SETTINGS = [
    (kind, models, devices) for kind in ("homogeneous", "heterogeneous") for models in (8, 64) for devices in (4, 8)
]


def makespan_s(preset: Preset, policy: str, seed: int = 0) -> float:
    return simulate(preset.workload, preset.cluster, policy, effects=preset.effects, seed=seed).makespan_s


def bound_s(preset: Preset) -> float:
    costs = StatedCosts(preset.workload, preset.cluster)
    return max(lower_bounds(preset.workload, preset.cluster, costs).values())


@pytest.mark.parametrize(
    ("policy", "expected_s"), [("model-parallel", 12.0), ("task-parallel", 8.0), ("sharded-lrtf", 6.0)]
)
def test_fig6_takes_twelve_eight_and_six_units(policy, expected_s):
    assert makespan_s(make_preset("paper-fig6"), policy) == expected_s


def test_a_homogeneous_model_has_2000_units_of_3_6_seconds():
    preset = make_preset("paper-fig7", models=8, devices=4)
    assert len(preset.cluster.devices) == 4
    assert [job.num_units for job in preset.workload.jobs] == [2000] * 8
    assert preset.workload.jobs[0].shards[0].forward_s == preset.workload.jobs[0].shards[3].backward_s == 3.6


def test_heterogeneous_models_stay_in_the_papers_ranges():
    jobs = make_preset("paper-fig7", models=64, kind="heterogeneous", seed=3).workload.jobs
    epochs_s = [job.num_units * job.shards[0].forward_s for job in jobs]
    assert all(1800 <= epoch_s <= 14400 for epoch_s in epochs_s)
    assert all(96 <= job.num_units <= 10_000 and job.num_units % 8 == 0 for job in jobs)
    assert len(set(epochs_s)) == 64


def test_a_seed_draws_the_same_models_whatever_the_devices_and_the_count():
    few = make_preset("paper-fig7", models=8, devices=4, kind="heterogeneous", seed=1).workload.jobs
    many = make_preset("paper-fig7", models=64, devices=8, kind="heterogeneous", seed=1).workload.jobs
    other = make_preset("paper-fig7", models=8, devices=4, kind="heterogeneous", seed=2).workload.jobs
    assert many[:8] == few != other


def test_scaling_cuts_an_epoch_more_coarsely_but_keeps_its_length():
    (whole,) = make_preset("paper-fig7", models=1).workload.jobs
    (coarse,) = make_preset("paper-fig7", models=1, units_scale=0.004).workload.jobs
    assert (whole.num_units, coarse.num_units) == (2000, 8)
    assert coarse.shards[0].forward_s == 900.0  # 7200 s in 8 units


@pytest.mark.parametrize(("kind", "models", "devices"), SETTINGS)
def test_fig7_sharded_lrtf_reaches_the_bound(kind, models, devices):
    preset = make_preset("paper-fig7", kind=kind, models=models, devices=devices, units_scale=0.1)
    assert 1.0 <= makespan_s(preset, "sharded-lrtf") / bound_s(preset) * (1 + 1e-12) <= 1.001


def test_fig7_random_loses_a_tenth_or_two_on_unequal_models():
    ratios = []
    for seed in range(30):
        preset = make_preset("paper-fig7", models=8, devices=4, kind="heterogeneous", seed=seed, units_scale=0.02)
        ratios.append(makespan_s(preset, "random", seed) / bound_s(preset))
    assert 1.05 <= sum(ratios) / len(ratios) <= 1.25


@pytest.mark.parametrize(
    ("name", "parameters", "error", "message"),
    [
        ("paper-fig5", {}, WorkloadError, "no preset is named 'paper-fig5'; there are paper-fig6, paper-fig7"),
        ("paper-fig6", {"models": 8}, WorkloadError, "'paper-fig6' has no parameter 'models'; it has none"),
        ("paper-fig7", {"models": 0}, WorkloadError, "models is 0"),
        ("paper-fig7", {"kind": "mixed"}, WorkloadError, "kind is 'mixed'; it is one of homogeneous, heterogeneous"),
        ("paper-fig7", {"units_scale": 2.0}, WorkloadError, "units_scale is 2.0"),
        ("paper-fig7", {"devices": 0}, ClusterError, "at least one"),
    ],
)
def test_a_wrong_name_or_parameter_says_what_there_is(name, parameters, error, message):
    with pytest.raises(error, match=message):
        make_preset(name, **parameters)
