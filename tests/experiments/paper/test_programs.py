"""The paper's program for Fig. 7: as large as it may be, and answers that are kept by all that determines them."""

import json

import pytest

from experiments.figures.scheduler import DEVICES, KINDS, MODELS, SOLVED
from experiments.paper import programs
from experiments.paper.programs import COLD, WARM, WAYS, Setting, answers, key_of, largest_pieces
from hydrasim.optimum import milp
from hydrasim.optimum.problem import problem_of
from hydrasim.presets import paper_fig7
from hydrasim.profile import StatedCosts

SETTING = Setting("homogeneous", 8, 4)


@pytest.mark.parametrize(("models", "devices"), [(8, 4), (8, 8), (64, 4), (64, 8)])
def test_as_many_pieces_as_the_program_may_have(models, devices):
    preset = paper_fig7(models, devices, "homogeneous", 0, 0.25)
    pieces = largest_pieces(Setting("homogeneous", models, devices))
    costs = StatedCosts(preset.workload, preset.cluster)
    assert not milp.refusal(problem_of(preset.workload, preset.cluster, costs, pieces))
    assert pieces <= milp.PIECES_PER_JOB
    if pieces < milp.PIECES_PER_JOB:
        assert milp.refusal(problem_of(preset.workload, preset.cluster, costs, pieces + 1))


def test_answers_are_kept_and_not_sought_again(tmp_path):
    path = tmp_path / "solved.json"
    kept = {key_of(SETTING, way): {"status": way} for way in WAYS}
    path.write_text(json.dumps(kept))
    assert answers([SETTING], path, fresh=False) == {(SETTING, way): {"status": way} for way in WAYS}


def test_a_key_changes_with_all_that_determines_the_answer(monkeypatch):
    known = {key_of(SETTING, way) for way in WAYS} | {key_of(Setting("heterogeneous", 8, 4), WARM)}
    for name, value in (("_VERSION", 0), ("TIME_LIMIT_S", 1.0), ("SEED", 1), ("largest_pieces", lambda setting: 2)):
        with monkeypatch.context() as patch:
            patch.setattr(programs, name, value)
            known.add(key_of(Setting("heterogeneous", 8, 4), COLD))
    assert len(known) == 3 + 4


def test_the_committed_answers_hold_every_program():
    settings = [Setting(kind, models, devices) for kind in KINDS for models in MODELS for devices in DEVICES]
    assert {key_of(setting, way) for setting in settings for way in WAYS} == set(json.loads(SOLVED.read_text()))
