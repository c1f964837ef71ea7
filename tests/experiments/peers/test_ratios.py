"""Small cases whose medians and intervals are known."""

from __future__ import annotations

from experiments.peers.ratios import Ratio, ratio_of_pairs


def test_equal_pairs_leave_no_doubt():
    assert ratio_of_pairs([(2.0, 3.0)] * 9) == Ratio(1.5, 1.5, 1.5, 9)


def test_a_rival_that_takes_twice_as_long_is_half_as_fast():
    assert ratio_of_pairs([(1.0, 2.0)]).value == 2.0


def test_the_value_is_the_median_of_the_pairs_not_the_ratio_of_medians():
    pairs = [(1.0, 2.0), (4.0, 4.0), (2.0, 8.0)]  # ratios 2, 1, 4
    found = ratio_of_pairs(pairs)
    assert found.value == 2.0
    assert (found.low, found.high) == (1.0, 4.0)  # all three equal to 1 happens in 1 of 27 draws


def test_one_pair_far_off_does_not_move_the_interval_of_nine():
    found = ratio_of_pairs([(1.0, 1.25)] * 8 + [(1.0, 100.0)])
    assert found == Ratio(1.25, 1.25, 1.25, 9)  # five of nine draws are never the odd one


def test_the_interval_is_the_same_each_time_and_holds_the_value():
    pairs = [(1.0, 1.0 + index / 8) for index in range(9)]
    found = ratio_of_pairs(pairs)
    assert found == ratio_of_pairs(pairs)
    assert found.value == 1.5
    assert 1.0 <= found.low < 1.5 < found.high <= 2.0


def test_a_known_interval():
    # Two pairs: the median of a draw is 1 (1/4), 3 (1/4) or their mean, so the interval is both ends.
    assert ratio_of_pairs([(1.0, 1.0), (1.0, 3.0)]) == Ratio(2.0, 1.0, 3.0, 2)
