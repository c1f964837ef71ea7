"""Which mini-batches train and which evaluate, where steps and the job end: against a plain enumeration."""

from __future__ import annotations

import itertools

import pytest

from hydrasim.schedule import Schedule


def enumerated(schedule: Schedule) -> str:
    """Write a schedule out, a letter a mini-batch, by the loop that it stands for."""
    trained, letters = 0, ""
    for _ in range(schedule.epochs):
        if trained == schedule.max_minibatches:
            break
        for _ in range(schedule.minibatches):
            if trained == schedule.max_minibatches:
                break
            trained += 1
            letters += "T"
        letters += "E" * schedule.evaluation_minibatches
    return letters[: schedule.ends_after]


SCHEDULES = [
    Schedule(minibatches, epochs, evaluation, 1, most, end)
    for minibatches, epochs, evaluation, most, end in itertools.product(
        (1, 3), (1, 3), (0, 1, 2), (None, 1, 2, 4, 6, 9, 20), (None, 1, 4, 7)
    )
]


def test_a_schedule_is_the_loop_it_stands_for():
    for schedule in SCHEDULES:
        letters = enumerated(schedule)
        assert schedule.num_minibatches == len(letters), schedule
        kinds = "".join("TE"[schedule.is_evaluation(n)] for n in range(schedule.num_minibatches))
        assert kinds == letters, schedule
        assert schedule.num_trained == letters.count("T"), schedule
        before = [schedule.trained_before(n) for n in range(len(letters) + 1)]
        assert before == [letters[:n].count("T") for n in range(len(letters) + 1)], schedule
        assert schedule.last_trained == letters.rindex("T"), schedule


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_steps_come_after_whole_groups_of_those_that_train(accumulate: int):
    for schedule in (Schedule(6, 2, 2, accumulate), Schedule(6, 2, 2, accumulate, max_minibatches=10)):
        trained = [n for n in range(schedule.num_minibatches) if not schedule.is_evaluation(n)]
        stepping = trained[accumulate - 1 :: accumulate]
        assert [n for n in range(schedule.num_minibatches) if schedule.steps_after(n)] == stepping
        assert (schedule.num_steps, schedule.last_step) == (len(stepping), stepping[-1])
        assert [schedule.step_of(n) for n in trained] == [index // accumulate for index in range(len(trained))]
        assert [n for n in trained if not schedule.adds_up(n)] == trained[::accumulate]


def test_a_schedule_without_a_whole_step_has_none():
    schedule = Schedule(2, accumulate=3)
    assert (schedule.num_steps, schedule.last_step, schedule.last_trained) == (0, -1, 1)


def test_places_and_epochs():
    schedule = Schedule(2, 3, 2, max_minibatches=5)  # T T E E T T E E T E E
    assert [schedule.epoch(n) for n in range(schedule.num_minibatches)] == [0] * 4 + [1] * 4 + [2] * 3
    assert [schedule.place(n) for n in range(schedule.num_minibatches)] == [0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1]
    assert [n for n in range(schedule.num_minibatches) if schedule.ends_evaluation(n)] == [3, 7, 10]
    assert schedule.num_epochs == 3


def test_a_job_may_state_more_mini_batches_than_a_machine_word_counts():
    assert Schedule(10**40, 2, 1).num_minibatches == 2 * 10**40 + 2
