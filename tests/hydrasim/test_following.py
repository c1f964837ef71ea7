"""A run that follows a plan goes on step by step, and objects where binding comes to something else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hydrasim.dataflow import BlockKey
from hydrasim.errors import PlanError
from hydrasim.following import Following
from hydrasim.plan import Plan, Step
from hydrasim.workload import ShardUnit

FIRST, SECOND = (ShardUnit.parse(text) for text in ("A/F0#0", "A/L1#0"))


def following(*steps: Step) -> Following:
    return Following(Plan((steps,), "", ""), None)


def bound_at(offset: int) -> SimpleNamespace:
    return SimpleNamespace(places=((BlockKey("w", "A", 0, -1), offset),), mode="keep")


def test_a_device_goes_on_to_its_next_step_once_that_may_be_issued():
    here, issuable = following(Step(FIRST), Step(SECOND)), [FIRST]
    progress = {"A": SimpleNamespace(issuable=lambda: issuable)}
    assert here.eligible(0, progress) == [FIRST]
    here.bound(FIRST, 0, bound_at(0), None)
    assert here.eligible(0, progress) == []
    issuable[:] = [SECOND]
    assert here.eligible(0, progress) == [SECOND]
    here.bound(SECOND, 0, bound_at(0), None)
    assert here.eligible(0, progress) == []
    assert here.memory_of == {}


def test_what_binding_comes_to_is_remembered_and_held_against_the_plan():
    here = following(Step(FIRST, offset=64, evict=("B/w0",)), Step(SECOND))
    with pytest.raises(PlanError, match="the plan puts A/F0#0 at offset 64"):
        here.bound(FIRST, 0, bound_at(128), ())
    here.bound(FIRST, 0, bound_at(64), ("B/w0",))
    assert here.memory_of[FIRST].evict == ("B/w0",)
    assert here.positions == [1]
