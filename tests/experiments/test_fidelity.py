"""Errors, skill, ranking and regret, on numbers that can be checked by hand."""

from __future__ import annotations

from experiments.fidelity import CaseResult, PlanResult, Validation
from hydrasim.causes import CAUSES


def plan(policy: str, simulated_s: float, *measured_s: float, naive_s: float = 2.0, **fields: object) -> PlanResult:
    return PlanResult(policy, simulated_s, naive_s, measured_s, **({"replayed_s": measured_s} | fields))  # type: ignore[arg-type]


def case(*plans: PlanResult, name: str = "one", **fields: object) -> CaseResult:
    return CaseResult(name, plans, "emulated", **fields)  # type: ignore[arg-type]


def test_errors_are_signed_and_against_the_median():
    one = plan("fifo", 5.0, 4.0, 3.0, 8.0)
    assert one.error_fraction == 0.25
    assert one.naive_error_fraction == -0.5


def test_the_worst_repeat_makes_the_spread():
    assert plan("fifo", 5.0, 4.0, 3.0, 4.0, 8.0).spread_fraction == 1.0
    assert not plan("fifo", 5.0, 100.0, 100.0, 96.0).is_valid
    assert plan("fifo", 5.0, 100.0, 99.0, 103.0).is_valid


def test_skill_counts_only_where_the_naive_predictor_errs():
    fields = Validation((case(plan("a", 5.0, 4.0), plan("b", 8.0, 2.0)),)).summary()  # naive: -50 %, 0 %
    assert fields["num_plans_naive_wrong"] == fields["num_cases_naive_wrong"] == 1
    assert fields["skill"] == 0.5
    assert Validation((case(plan("b", 8.0, 2.0)),)).summary()["skill"] is None


def test_only_pairs_that_no_repeat_confuses_are_ranked():
    fast, slow, between = plan("a", 1.0, 1.0, 2.0), plan("b", 2.0, 4.0, 3.0), plan("c", 3.0, 1.5, 3.5)
    assert case(fast, slow, between).pairs == [True]
    backwards = plan("d", 0.5, 8.0)
    assert case(fast, slow, backwards).pairs == [True, False, False]
    fields = Validation((case(fast, slow, backwards), case(fast, slow))).summary()
    assert (fields["num_separable_pairs"], fields["kendall_tau"]) == (4, 0.0)
    assert Validation((case(fast),)).summary()["kendall_tau"] is None


def test_a_tie_of_predictions_is_no_order():
    assert case(plan("a", 1.0, 1.0), plan("b", 1.0, 2.0)).pairs == [False]


def test_regret_is_what_the_choice_cost():
    wrong = case(plan("a", 1.0, 3.0), plan("b", 2.0, 2.0))
    assert (wrong.chosen.policy, wrong.best.policy, wrong.regret_fraction, wrong.is_top1) == ("a", "b", 0.5, False)
    unclear = case(plan("a", 1.0, 3.0, 1.0), plan("b", 2.0, 1.5, 2.0))
    assert unclear.is_top1
    fields = Validation((wrong, unclear)).summary()
    assert (fields["num_top1"], fields["max_regret_fraction"]) == (1, 0.5)


def test_residuals_are_shares_of_the_measured_makespan():
    measured = dict.fromkeys(CAUSES, 0.0) | {"compute": 6.0, "wait": 2.0}
    simulated = dict.fromkeys(CAUSES, 0.0) | {"compute": 6.0, "h2d": 1.0}
    found = plan("a", 7.0, 8.0, simulated_by_cause_s=simulated, measured_by_cause_s=measured).residuals
    assert {cause: share for cause, share in found.items() if share} == {"h2d": 0.125, "wait": -0.25}
    assert plan("a", 7.0, 8.0).residuals == {}


def test_memory_is_judged_where_it_is_farthest_off():
    found = plan("a", 1.0, 1.0, simulated_peak_bytes=(10, 9, 5), measured_peak_bytes=(10, 12, 0))
    assert found.memory_error_fraction == -0.25


def test_replay_reports_its_worst_repeat():
    assert plan("a", 1.0, 4.0, 8.0, replayed_s=(4.0, 6.0)).replay_error_fraction == 0.25


def test_a_distorted_profile_is_summed_up_too():
    fields = Validation((case(plan("a", 1.0, 2.0, perturbed_s={"units +30 %": (3.0, 1.0, 4.0)})),)).summary()
    assert fields["median_error_fraction_if_perturbed"] == {"units +30 %": 0.5}
