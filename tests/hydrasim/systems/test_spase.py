"""Saturn's solver against brute force, and what it says of its own answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations, product
from random import Random

import pytest

from hydrasim.systems.spase import Choice, Solution, lower_bound_s, place, solve, undominated

TWO, THREE = [(0, 1)], [(0, 1, 2)]


def least_s(choices: Mapping[str, Sequence[Choice]], pools: Sequence[tuple[int, ...]]) -> float:
    """Return the least makespan of all choices in all orders, each job as early as its order allows."""
    best_s = float("inf")
    for picks in product(*choices.values()):
        for order in permutations(picks):
            free_s = [[0.0] * len(pool) for pool in pools]
            begun_s, end_s = [0.0] * len(pools), 0.0
            for choice in order:
                free = sorted(free_s[choice.pool])
                start_s = begun_s[choice.pool] = max(begun_s[choice.pool], free[choice.num_devices - 1])
                free_s[choice.pool] = [start_s + choice.seconds] * choice.num_devices + free[choice.num_devices :]
                end_s = max(end_s, start_s + choice.seconds)
            best_s = min(best_s, end_s)
    return best_s


def check(solution: Solution, choices: Mapping[str, Sequence[Choice]], pools: Sequence[tuple[int, ...]]) -> None:
    """Make sure that every job is placed once by one of its choices, and no device is used twice at a time."""
    assert sorted(placement.job for placement in solution.placements) == sorted(choices)
    for one in solution.placements:
        assert one.choice in choices[one.job]
        assert len(set(one.devices)) == one.choice.num_devices
        assert set(one.devices) <= set(pools[one.choice.pool])
        for other in solution.placements:
            apart = one.end_s <= other.start_s or other.end_s <= one.start_s
            assert one is other or apart or not set(one.devices) & set(other.devices)


@pytest.mark.parametrize("seed", range(12))
def test_it_finds_the_optimum_of_small_problems(seed: int):
    random, pools = Random(seed), [[(0, 1, 2)], [(0, 1), (2, 3)]][seed % 2]
    choices = {
        name: [
            Choice(f"t{pool}{count}", count, random.randint(1, 64) / 4, pool)
            for pool in range(len(pools))
            for count in range(1, len(pools[pool]) + 1)
        ]
        for name in ("A", "B", "C", "D")[: 4 if len(pools) == 1 else 3]
    }
    solution = solve(choices, pools)
    check(solution, choices, pools)
    assert solution.status == "optimal"
    assert solution.makespan_s == solution.bound_s == least_s(choices, pools)
    assert solution.gap_fraction == 0.0


def test_choices_beyond_any_horizon_are_not_chosen():
    fast = {name: [Choice("a", 1, 1e-9), Choice("a", 2, 0.9e-9)] for name in "ABC"}
    slow = {name: [*options, Choice("b", 1, 1e12, devices=())] for name, options in fast.items()}
    slow["A"].append(Choice("b", 1, 1e12, devices=(0,)))
    assert solve(slow, TWO).makespan_s == solve(fast, TWO).makespan_s


def test_it_gives_more_devices_to_who_gains_by_them():
    # gpu0 A A A A     A gains by a second device, B does not
    # gpu1 A A A A
    # gpu2 B B B B
    choices = {
        "A": [Choice("ddp", 1, 7.0), Choice("ddp", 2, 4.0), Choice("ddp", 3, 3.0)],
        "B": [Choice("ddp", 1, 4.0), Choice("ddp", 2, 3.5), Choice("ddp", 3, 3.25)],
    }
    solution = solve(choices, THREE)
    assert {p.job: (p.choice.num_devices, p.devices) for p in solution.placements} == {"A": (2, (0, 1)), "B": (1, (2,))}
    assert solution.makespan_s == solution.bound_s == 4.0


def test_it_beats_its_guess_where_the_longest_first_is_wrong():
    # gpu0 A A A B B B      longest first: 3 3 2 2 2 on two devices end at 7, of which 6 are enough
    # gpu1 C C D D E E
    choices = {
        name: [Choice("ddp", 1, seconds)] for name, seconds in zip("ABCDE", (3.0, 3.0, 2.0, 2.0, 2.0), strict=True)
    }
    solution = solve(choices, TWO)
    assert (solution.makespan_s, solution.status) == (6.0, "optimal")


def hard() -> dict[str, list[Choice]]:
    random = Random(1)
    return {f"j{n}": [Choice("ddp", k, random.randint(200, 400) / (k + 1)) for k in (1, 2, 3)] for n in range(12)}


def test_out_of_time_it_says_how_much_better_it_could_be():
    solution = solve(hard(), THREE, 1e-6)
    check(solution, hard(), THREE)
    assert solution.status == "feasible"
    assert 0 < solution.bound_s < solution.makespan_s
    assert solution.gap_fraction == 1 - solution.bound_s / solution.makespan_s


def test_that_nothing_is_short_enough_is_a_bound_too():
    choices = {
        name: [Choice("ddp", 1, seconds)] for name, seconds in zip("ABCDE", (3.0, 3.0, 2.5, 2.0, 2.0), strict=True)
    }
    best = solve(choices, TWO)
    assert (best.status, best.makespan_s, lower_bound_s(choices, TWO)) == ("optimal", 6.5, 6.25)
    none = solve(choices, TWO, below_s=6.375)
    assert none.status == "feasible"
    assert none.makespan_s >= 6.5 >= none.bound_s > 6.375


def test_the_same_problem_has_the_same_solution():
    assert solve(hard(), THREE, 0.25) == solve(hard(), THREE, 0.25)


def test_rounded_times_round_no_bound_up():
    third = 1 / 3
    solution = solve({name: [Choice("ddp", 1, third), Choice("ddp", 2, third * 0.9)] for name in "ABC"}, TWO)
    assert solution.makespan_s == third + third * 0.9
    assert 0 < solution.gap_fraction < 1e-3


def test_a_running_job_goes_on_where_it_is_or_pays_for_the_change():
    # gpu0 B B .      A stays on device 1 unless the change is worth it
    # gpu1 A A A
    go_on, quick = Choice("ddp", 1, 3.0, devices=(1,)), Choice("ddp", 2, 0.75)
    stays = solve({"A": [go_on, Choice("ddp", 1, 3.5), Choice("ddp", 2, 2.5)], "B": [Choice("ddp", 1, 2.0)]}, TWO)
    assert {p.job: (p.start_s, p.devices) for p in stays.placements} == {"A": (0.0, (1,)), "B": (0.0, (0,))}
    moves = solve({"A": [go_on, quick], "B": [Choice("ddp", 1, 2.0)]}, TWO)
    assert {p.job: p.choice for p in moves.placements}["A"] == quick
    assert moves.makespan_s == 2.75


def test_adjacent_devices_are_preferred():
    picks = [
        ("A", Choice("x", 1, 1.0)),
        ("B", Choice("x", 1, 4.0)),
        ("C", Choice("x", 2, 4.0)),
        ("D", Choice("x", 2, 1.0)),
    ]
    placed = {p.job: p.devices for p in place(picks, [(0, 1, 2, 3, 4)])}
    assert placed == {"A": (0,), "B": (1,), "C": (2, 3), "D": (0, 4)}


def test_what_is_neither_faster_nor_smaller_is_left_out():
    running = Choice("x", 2, 9.0, devices=(0, 1))
    one, two, elsewhere = Choice("x", 1, 3.0), Choice("y", 2, 2.0), Choice("x", 1, 9.0, pool=1)
    options = [running, Choice("y", 1, 4.0), one, two, Choice("x", 3, 2.0), elsewhere, Choice("z", 1, 3.0)]
    assert undominated(options) == [running, one, two, elsewhere]


def test_no_makespan_is_below_the_longest_job_or_all_work():
    choices = {"A": [Choice("x", 1, 8.0), Choice("x", 2, 6.0)], "B": [Choice("x", 1, 2.0)]}
    assert lower_bound_s(choices, TWO) == 6.0
    assert lower_bound_s(choices | {"C": [Choice("x", 1, 6.0)]}, TWO) == 8.0
