"""Asking a policy: what it may answer, and one clear error for all else."""

from __future__ import annotations

import pytest

from experiments.hostile.policies import (
    Incomparable,
    Ineligible,
    Leaves,
    NoneAtTimes,
    Plain,
    Raises,
    RaisesTheUnspeakable,
    Recurses,
    Takes,
    Text,
    Twice,
)
from hydrasim import simulate
from hydrasim.asking import ask, listed
from hydrasim.errors import PolicyError, WorkloadError
from hydrasim.policies import Policy
from hydrasim.workload import Phase, ShardUnit
from tests.worlds import devices, fig6, job, workload

UNITS = [ShardUnit("A", Phase.FORWARD, 0, 0), ShardUnit("B", Phase.FORWARD, 0, 0)]


class Answers(Policy):
    def __init__(self, answer):
        self.answer = answer

    def choose(self, device, view):
        return self.answer


def asked(policy: Policy):
    return ask(policy, 1, None, UNITS, ["load A/w0"])  # type: ignore[arg-type]


def test_an_eligible_unit_or_none_is_taken():
    assert asked(Answers(UNITS[1])) == UNITS[1]
    assert asked(Answers(None)) is None


def test_another_unit_is_refused_with_what_may_be_chosen_and_what_happened():
    with pytest.raises(PolicyError) as caught:
        asked(Answers(ShardUnit("C", Phase.LOSS, 1, 3)))
    assert str(caught.value) == (
        "answers chose C/L1#3 for device 1, where it is not eligible.\n"
        "  Choose from view.eligible(1); it held A/F0#0, B/F0#0.\n"
        "  Last commands: load A/w0"
    )


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Plain, "plain returned a tuple for device 0"),  # it equals a unit, and once became an AttributeError
        (Text, "text returned a str for device 0"),
        (Incomparable, "incomparable returned a Unequal for device 0"),
        (Ineligible, "ineligible chose A/F0#1 for device 0, where it is not eligible"),
        (Twice, "twice chose A/F0#0 for device 1, where it is not eligible"),
        (Raises, "raises failed to choose for device 0: IndexError: list index out of range"),
        (Leaves, "leaves failed to choose for device 0: SystemExit: 0"),  # it once ended the program with success
        (RaisesTheUnspeakable, r"failed to choose for device 0: _Speechless: \(its message cannot be read\)"),
        (Recurses, "recurses failed to choose for device 0: RecursionError"),
    ],
)
def test_a_policy_that_misbehaves_is_one_clear_error(policy, message):
    with pytest.raises(PolicyError, match=message):
        simulate(fig6(), devices(2), policy())


def test_a_policys_own_hydra_error_is_passed_on():
    class Complains(Policy):
        def choose(self, device, view):
            raise WorkloadError("not with this workload")

    with pytest.raises(WorkloadError, match="not with this workload"):
        simulate(fig6(), devices(1), Complains())


@pytest.mark.parametrize("policy", [Takes, NoneAtTimes])
def test_what_is_odd_but_harmless_runs(policy):
    assert simulate(workload(job(minibatches=3)), devices(1), policy()).makespan_s == 6.0


def test_a_long_list_is_cut_short():
    assert listed(UNITS * 10).count(",") == 7
