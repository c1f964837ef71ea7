"""Room in host memory is handed on with the commands to wait for, and copies rank for eviction."""

from __future__ import annotations

import pytest

from hydrasim.homes import Home, Ledger


def test_fresh_bytes_go_first_and_wait_for_nothing():
    ledger = Ledger(100)
    ledger.give(50, {7})
    assert ledger.take(100) == set()
    assert (ledger.take(30), ledger.free_bytes) == ({7}, 20)


def test_bytes_given_up_first_go_first_and_carry_their_guards():
    ledger = Ledger(0)
    ledger.give(50, {1})
    ledger.give(50, {2, 3})
    assert ledger.take(40) == {1}
    assert ledger.take(20) == {1, 2, 3}
    assert ledger.take(40) == {2, 3}


def test_bytes_that_nobody_gave_up_are_a_bug():
    with pytest.raises(AssertionError, match="60 bytes are wanted, 50 are free"):
        Ledger(50).take(60)


def test_what_a_device_has_newer_is_given_up_first_then_what_was_not_used_for_longest_or_will_not_be():
    newer_elsewhere, old, new = Home(dirty_on=0, last_use=9), Home(last_use=3), Home(last_use=7)
    assert sorted([new, old, newer_elsewhere], key=Home.keep_value) == [newer_elsewhere, old, new]
    soon, late = Home(last_use=1, next_use=2), Home(last_use=8, next_use=40)
    assert sorted([soon, late], key=Home.keep_value) == [late, soon]
