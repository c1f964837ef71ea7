"""The scheduler study: ratios to what no plan beats, decisions that are timed and not changed, what the note says."""

import json

import pytest

from experiments.experiment import read_frame
from experiments.figures import note, scheduler
from experiments.figures.scheduler import POLICIES, Timed
from experiments.paper.programs import COLD, WARM, WAYS
from hydrasim.policies import make_policy
from hydrasim.presets import paper_fig6, paper_fig7
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


def test_a_solver_s_rows_are_labelled_so_and_not_held_against_itself(frame):
    solver = frame[frame["policy"].isin(WAYS)]
    assert set(solver["label"]) == {"solver"}
    assert solver[["paper_ratio", "error_fraction"]].isna().all(axis=None)
    assert set(frame["label"][~frame["policy"].isin(WAYS)]) == {"simulated"}


def test_the_note_says_what_the_table_holds(frame):
    frame = frame.assign(scheduling_s=frame["scheduling_s"].mask(frame["policy"] == COLD, 123.4))
    frame.loc[frame["policy"] == WARM, ["ratio", "status"]] = 1.5, "OPTIMAL"
    frame.loc[frame["policy"] == COLD, "ratio"] = float("nan")
    text = note(scheduler, frame)
    assert "40 % with 8 models and 5 % with 64 models are simulated" in text
    assert "put together into at most 2 pieces" in text
    assert "The limit of 100 s is of HiGHS's own clock" in text
    assert "with building the program it took up to 123 s" in text
    assert "we draw them anew for each of 3 runs" in text
    assert (
        "Started cold it finds a plan in none of 1 worlds; from longest-remaining-time first a plan in 1 of 1" in text
    )
    assert "1.500 to 1.500 times the bound, 1 of them proven" in text


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


def test_the_paper_s_numbers_are_those_of_its_figure():
    quoted = scheduler._PAPER
    assert len(quoted) == 8
    assert quoted["heterogeneous", 8, 8] == {"random": (1.20, 0.043), "sharded-lrtf": (0.85, 0.55)}
    for kind in scheduler.KINDS:  # the same in both panels, as printed
        values = [quoted[kind, models, devices]["sharded-lrtf"][0] for models in (8, 64) for devices in (4, 8)]
        assert values == [1.01, 0.85, 0.90, 0.82]


def test_draws_ratios_above_seconds(frame):
    assert len(scheduler.draw(frame).axes) == 2


def test_what_is_too_tall_is_written_and_what_was_not_found_too(frame):
    frame = frame.assign(ratio=frame["ratio"].mask(frame["policy"] == WARM, 7.25).mask(frame["policy"] == COLD))
    texts = [text.get_text() for text in scheduler.draw(frame).axes[0].texts]
    assert texts == ["7.25\n\u2191", "no plan found"]


def test_the_published_note_is_that_of_the_published_table():
    folder = scheduler.SOLVED.parent
    assert json.loads((folder / "run.json").read_text())["note"] == note(scheduler, read_frame(scheduler, folder))
