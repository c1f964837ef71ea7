"""When a curve counts as the reference's."""

from __future__ import annotations

import math

from experiments.peers.losses import TOLERANCE, largest_difference, objection

REFERENCE = {"A": [4.0, 2.0], "B": [1.0]}


def test_the_same_curves_do_not_differ():
    assert largest_difference({"B": [1.0], "A": [4.0, 2.0]}, REFERENCE) == 0.0


def test_the_largest_relative_difference_counts():
    assert largest_difference({"A": [4.0, 2.5], "B": [1.125]}, REFERENCE) == 0.25


def test_a_curve_that_is_missing_too_short_or_no_number_differs_infinitely():
    assert largest_difference({"A": [4.0, 2.0]}, REFERENCE) == math.inf
    assert largest_difference({"A": [4.0], "B": [1.0]}, REFERENCE) == math.inf
    assert largest_difference({"A": [4.0, math.nan], "B": [1.0]}, REFERENCE) == math.inf


def test_who_is_to_be_exact_may_differ_by_nothing():
    assert objection(0.0, exact=True) == ""
    assert "bit for bit" in objection(1e-16, exact=True)


def test_others_may_differ_by_rounding():
    assert objection(TOLERANCE, exact=False) == ""
    assert "trains something else" in objection(2 * TOLERANCE, exact=False)
