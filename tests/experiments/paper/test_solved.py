"""The files of solvers' answers: where they are, and that nothing in them is lost."""

import json

import pytest

from experiments.figures import optimum, scheduler
from experiments.paper.solved import Solved, digest_of, solved_file
from hydrasim.errors import HydraError


def test_every_figure_keeps_its_answers_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, module in (("optimum", optimum), ("scheduler", scheduler)):
        assert solved_file(name) == module.SOLVED
        assert module.SOLVED.is_absolute()
        assert module.SOLVED.exists()


def test_an_answer_is_added_to_the_others(tmp_path):
    path = tmp_path / "new" / "solved.json"
    Solved(path).keep("b", {"seconds": 1.0})
    Solved(path).keep("a", {"seconds": 2.0})
    assert json.loads(path.read_text()) == Solved(path) == {"a": {"seconds": 2.0}, "b": {"seconds": 1.0}}
    assert list(json.loads(path.read_text())) == ["a", "b"]


def test_an_answer_that_is_missing_is_told(tmp_path):
    with pytest.raises(HydraError, match=r"solved.json holds no answer for world-7 as it is now; .* or with --fresh"):
        Solved(tmp_path / "solved.json").answer("0123", "world-7")


def test_a_digest_tells_fields_apart():
    assert digest_of([1, {"a": 2.0}]) == digest_of([1, {"a": 2.0}]) != digest_of([1, {"a": 2.5}])
