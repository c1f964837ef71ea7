"""Which commands a unit follows."""

from __future__ import annotations

import pytest

from hydrasim import ShardUnit
from hydrasim.dag import Templates, is_last_forward
from hydrasim.precedence import Precedence
from hydrasim.progress import JobProgress
from tests.worlds import job


def progress_of(fused: bool = True) -> JobProgress:
    started = job(shards=2, minibatches=3, fused=fused)
    templates = Templates.of_job(started)
    return JobProgress(0, started, templates, [1.0] * len(templates.with_step.nodes))


def unit(text: str) -> ShardUnit:
    return ShardUnit.parse(text)


def test_a_unit_follows_the_one_before_it():
    precedence = Precedence()
    precedence.note_compute(unit("A/F0#0"), 7)
    assert precedence.before(progress_of(), unit("A/L1#0")) == {7}


def test_the_first_unit_follows_its_fetch_and_the_whole_minibatch_before():
    precedence, progress = Precedence(), progress_of()
    precedence.note_fetch("A", 3)
    assert precedence.before(progress, unit("A/F0#0")) == {3}
    for number, text in enumerate(("A/F0#0", "A/L1#0", "A/B0#0"), 4):
        precedence.note_compute(unit(text), number)
    precedence.note_fetch("A", 9)
    assert precedence.before(progress, unit("A/F0#1")) == {4, 5, 6, 9}


@pytest.mark.parametrize(("fused", "last"), [(True, "A/L1#0"), (False, "A/F1#0")])
def test_the_last_forward_is_where_the_random_stream_comes_free(fused: bool, last: str):
    progress = progress_of(fused)
    units = [ShardUnit("A", *node, 0) for node in progress.template.nodes]
    assert [str(unit) for unit in units if is_last_forward(progress.job, unit)] == [last]
