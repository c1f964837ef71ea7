"""The scheduler study: ratios to what no plan beats, decisions that are timed and not changed, programs that fit."""

import json

import pytest

from experiments.figures import scheduler
from experiments.figures.scheduler import COLD, POLICIES, WARM, Setting, Timed, largest_pieces
from hydrasim.errors import WorkloadError
from hydrasim.optimum import milp
from hydrasim.optimum.problem import problem_of
from hydrasim.policies import make_policy
from hydrasim.presets import paper_fig6, paper_fig7
from hydrasim.profile import StatedCosts
from hydrasim.simulator import simulate


@pytest.fixture(scope="module")
def frame():
    return scheduler.run(smoke=True)


def test_keys_name_rows(frame):
    assert not frame.duplicated(list(scheduler.ABOUT.keys)).any()
    assert list(frame["policy"]) == [*POLICIES, WARM, COLD]


def test_no_policy_beats_the_bound_and_the_paper_s_order_returns(frame):
    ratios = frame.set_index("policy")["ratio"]
    assert (ratios[list(POLICIES)] >= 1 - 1e-9).all()
    assert ratios["sharded-lrtf"] < 1.01 < ratios["random"] < ratios["fifo"]


def test_a_solver_started_from_a_plan_has_one(frame):
    rows = frame.set_index("policy")
    assert rows.loc[WARM, "ratio"] >= 1
    assert not rows.loc[WARM, "error"]
    assert rows.loc[COLD, "status"] in ("UNKNOWN", "FEASIBLE", "OPTIMAL")
    assert rows.loc[WARM, "num_pieces"] == 16


@pytest.mark.parametrize("policy", POLICIES)
def test_timing_changes_nothing(policy):
    preset = paper_fig7(8, 4, "heterogeneous", 1, 0.01)
    timed = Timed(make_policy(policy))
    made = simulate(preset.workload, preset.cluster, timed, effects="theory", seed=1)
    bare = simulate(preset.workload, preset.cluster, policy, effects="theory", seed=1)
    assert made.makespan_s == bare.makespan_s
    assert len(timed.seconds) >= preset.workload.num_units
    assert min(timed.seconds) >= 0


def test_fig_6_is_two_ratios_by_hand():
    preset = paper_fig6()
    assert scheduler._bound_s(preset) == 6.0  # 12 units on two devices
    assert simulate(preset.workload, preset.cluster, Timed(), effects="theory").makespan_s == 6.0


@pytest.mark.parametrize(("models", "devices"), [(8, 4), (8, 8), (64, 4), (64, 8)])
def test_as_many_pieces_as_the_program_may_have(models, devices):
    preset = paper_fig7(models, devices, "homogeneous", 0, 0.25)
    pieces = largest_pieces(Setting("homogeneous", models, devices))
    costs = StatedCosts(preset.workload, preset.cluster)
    milp.check_size(problem_of(preset.workload, preset.cluster, costs, pieces))
    assert pieces <= milp.PIECES_PER_JOB
    if pieces < milp.PIECES_PER_JOB:
        with pytest.raises(WorkloadError, match="at most"):
            milp.check_size(problem_of(preset.workload, preset.cluster, costs, pieces + 1))


def test_answers_are_kept_and_not_sought_again(tmp_path):
    setting, path = Setting("homogeneous", 8, 4), tmp_path / "solved.json"
    kept = {scheduler._key(setting, way): {"status": way} for way in (WARM, COLD)}
    path.write_text(json.dumps(kept))
    assert scheduler._answers([setting], path, fresh=False) == kept


def test_the_paper_s_numbers_are_those_of_its_figure():
    quoted = scheduler._PAPER
    assert len(quoted) == 8
    assert quoted["heterogeneous", 8, 8] == {"random": (1.20, 0.043), "sharded-lrtf": (0.85, 0.55)}
    for kind in scheduler.KINDS:  # the same in both panels, as printed
        values = [quoted[kind, models, devices]["sharded-lrtf"][0] for models in (8, 64) for devices in (4, 8)]
        assert values == [1.01, 0.85, 0.90, 0.82]


def test_draws_ratios_above_seconds(frame):
    assert len(scheduler.draw(frame).axes) == 2
