"""Executed plans beside their simulations: who shares a profile, what repeats come to, what is cut for what."""

import pandas as pd
import pytest

from executor import CpuDevice
from experiments.executed import Variant, execute, on_two_devices, small_transformers, with_ratios
from experiments.suite import state_bytes
from hydrasim.capacity import arena_bytes


def test_variants_of_the_same_shards_share_a_profile_and_take_turns():
    prepared = on_two_devices(small_transformers(1))
    variants = {(name, 1): Variant(prepared, "fifo") for name in ("one", "other")}
    frame = execute(variants, ("name", "number"), repeats=2)
    assert frame[["name", "number"]].to_numpy().tolist() == [["one", 1], ["other", 1]]
    assert frame["simulated_s"].nunique() == 1
    assert frame["measured_s"].nunique() == 2
    for row in frame.itertuples():
        assert row.num_repeats == 2
        assert row.measured_s == (row.min_s + row.max_s) / 2
        assert row.spread_fraction == pytest.approx(row.max_s / row.measured_s - 1)


def test_devices_hold_half_of_a_models_state():
    jobs = small_transformers(2)
    prepared = on_two_devices(jobs, link_bytes_per_s=1e9)
    assert [device.link_bytes_per_s for device in prepared.devices] == [1e9, 1e9]
    (half,) = {*arena_bytes(prepared.workload, prepared.cluster)}
    assert state_bytes(jobs[0]) / 2 - 1024 < half <= state_bytes(jobs[0]) / 2
    assert isinstance(prepared.devices[0], CpuDevice)
    assert all(len(part.shards) > 1 for part in prepared.partitions)


def test_ratios_are_of_either_makespan():
    frame = pd.DataFrame({"simulated_s": [2.0, 1.0], "measured_s": [4.0, 1.0]})
    found = with_ratios(frame, lambda seconds: seconds[0] / seconds)
    assert found["ratio"].tolist() == [1, 2]
    assert found["measured_ratio"].tolist() == [1, 4]
    assert found["ratio_error_fraction"].tolist() == [0, -0.5]
