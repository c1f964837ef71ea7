"""The suite holds what it is meant to hold, and its cases can be made."""

from __future__ import annotations

import pytest

from experiments.suite import BUDGETS, MIXES, SUITES, find_cases
from hydrasim.errors import HydraError
from hydrasim.policies import policies

STANDARD = SUITES["standard"]


def test_the_standard_suite_covers_what_decides_a_prediction():
    assert len(STANDARD) >= 12
    assert all(len(set(case.policies)) >= 4 for case in STANDARD)
    assert 3 * sum(case.link_bytes_per_s is None for case in STANDARD) >= len(STANDARD)
    assert {case.budget for case in STANDARD} == set(BUDGETS)
    assert {case.prefetch for case in STANDARD} == {True, False}
    assert {case.shared for case in STANDARD} == {True, False}
    links = {case.link_bytes_per_s for case in STANDARD if case.link_bytes_per_s is not None}
    assert min(links) * 4 < max(links)
    assert all(3 <= sum(map(len, MIXES[case.mix])) <= 8 for case in STANDARD)


@pytest.mark.parametrize("suite", SUITES)
def test_names_are_different_and_policies_exist(suite: str):
    names = [case.name for case in SUITES[suite]]
    assert len(set(names)) == len(names)
    assert {policy for case in SUITES[suite] for policy in case.policies} <= set(policies())


@pytest.mark.parametrize("case", SUITES["smoke"], ids=lambda case: case.name)
def test_a_case_becomes_jobs_on_its_devices(case):
    prepared = case.prepare()
    assert len(prepared.workload.jobs) == 3
    assert len(prepared.cluster.devices) == case.num_devices
    assert {device.h2d.shared for device in prepared.cluster.devices} == {"shared" if case.shared else ""}
    assert [bus.name for bus in prepared.cluster.buses] == (["shared"] if case.shared else [])
    assert case.mechanism.prefetch


def test_what_does_not_exist_is_refused_with_what_does():
    with pytest.raises(HydraError, match="no suite is named 'big'; there are standard, smoke"):
        find_cases("big")
    with pytest.raises(HydraError, match="has no case 'x'; it has tiny-half, tiny-half-shared-link"):
        find_cases("smoke", "x")
    assert [case.name for case in find_cases("smoke", "tiny-half")] == ["tiny-half"]
