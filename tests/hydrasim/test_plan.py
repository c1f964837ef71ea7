"""Plans: made from a timeline, written, read, checked and followed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hydrasim import HydraError, Plan, ShardUnit, Timeline, simulate
from hydrasim.errors import PlanError
from hydrasim.plan import Placement, Step
from hydrasim.policies.follow_plan import FollowPlan
from tests.worlds import devices, fig6, job, units, workload

JOBS = workload(job("A", shards=2), job("B"))
TWO = devices(2)
# gpu0  A/F0#0         A/B0#0
# gpu1  B/L0#0  A/L1#0


def plan(*lists: str, digest: str = JOBS.digest) -> Plan:
    lists = lists or ("A/F0#0 A/B0#0", "B/L0#0 A/L1#0")
    return Plan(
        tuple(tuple(Step(ShardUnit.parse(u), "keep") for u in units.split()) for units in lists), digest, TWO.digest
    )


def test_a_plan_knows_where_and_when_each_unit_runs():
    unit = ShardUnit.parse("A/L1#0")
    assert (plan().device_of[unit], plan().position_of[unit]) == (1, 1)


def test_the_plan_of_a_timeline_is_what_ran_in_order():
    timeline = simulate(JOBS, TWO, "sharded-lrtf")
    made = Plan.of(timeline, JOBS, TWO, "feed")
    assert [[str(step.unit) for step in steps] for steps in made.devices] == [units(timeline, d) for d in (0, 1)]
    assert {step.mode for steps in made.devices for step in steps} == {"keep"}
    assert (made.workload_digest, made.cluster_digest, made.profile_digest) == (JOBS.digest, TWO.digest, "feed")
    assert made.policy == "sharded-lrtf"


def test_the_plan_of_a_timeline_of_a_larger_cluster_is_refused():
    timeline = simulate(fig6(), devices(3), "fifo")
    with pytest.raises(PlanError, match="the timeline ran on device 2, the cluster has 2 devices"):
        Plan.of(timeline, fig6(), TWO)


def test_following_a_plan_repeats_it():
    timeline = simulate(fig6(), TWO, "sharded-lrtf", effects="theory")
    again = simulate(fig6(), TWO, FollowPlan(Plan.of(timeline, fig6(), TWO)), effects="theory")
    assert again.makespan_s == timeline.makespan_s
    assert [units(again, device) for device in (0, 1)] == [units(timeline, device) for device in (0, 1)]


@pytest.mark.parametrize(
    "step", [Step(ShardUnit.parse("A/F0#0"), offset=0), Step(ShardUnit.parse("A/F0#0"), "keep", 64, ("B/w0",))]
)
def test_a_plan_survives_its_file(tmp_path: Path, step: Step):
    written = replace(plan(), devices=((step,), ()), profile_digest="feed", policy="x", makespan_s=0.1)
    written.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == written


def test_an_unworked_plan_has_no_offsets_in_its_file():
    assert '{"unit": "A/F0#0", "mode": "keep"}' in plan().to_json()


def step(text: str, mode: str | None = None, **fields: object) -> Step:
    return Step(ShardUnit.parse(text), mode, **fields)  # type: ignore[arg-type]


def test_what_was_worked_out_must_come_out_again():
    worked = step("A/B0#0", "keep", offset=64, evict=("B/w0",))
    worked.check(Placement(64, ("B/w0",), "keep"))
    step("A/B0#0", "keep").check(Placement(0, (), "recompute"))  # not worked out: it may come to anything
    step("A/B0#0", None, offset=64).check(Placement(64, (), "recompute"))
    for found in (Placement(0, ("B/w0",), "keep"), Placement(64, (), "keep"), Placement(64, ("B/w0",), "recompute")):
        with pytest.raises(PlanError, match=r"the plan puts A/B0#0 at offset 64 and evicts \['B/w0'\]; here it comes"):
            worked.check(found)


@pytest.mark.parametrize(("unit", "allowed"), [("A/F0#0", True), ("A/B0#0", True), ("A/L1#0", False)])
def test_units_that_could_keep_activations_may_recompute_instead(unit: str, allowed: bool):
    steps = tuple(
        tuple(replace(s, mode="recompute") if str(s.unit) == unit else s for s in device) for device in plan().devices
    )
    given_up = replace(plan(), devices=steps)
    if allowed:
        given_up.check(JOBS, 2)
    else:
        with pytest.raises(PlanError, match="the plan runs A/L1#0 in mode recompute, its job in keep"):
            given_up.check(JOBS, 2)


@pytest.mark.parametrize(
    ("wrong", "num_devices", "message"),
    [
        (plan(digest="beef"), 2, "the plan was made for workload beef, this one is .*; plan again"),
        (plan(), 3, "the plan is for 2 devices, the cluster has 3; plan again"),
        (plan("A/F0#0 A/B0#0", "A/L1#0"), 2, "the plan has 3 units, 3 of them different; the workload has 4"),
        (plan("A/F0#0 A/B0#0", "A/L1#0 A/L1#0"), 2, "the plan has 4 units, 3 of them different"),
        (plan("A/F0#0 A/B0#0", "A/L1#0 B/F0#0"), 2, "the plan holds B/F0#0, which is no unit of the workload"),
        (plan("A/F0#0 A/B0#0", "A/F1#0 B/L0#0"), 2, "the plan holds A/F1#0, which is no unit"),
        (plan("A/F0#0 A/B0#0", "A/L1#0 A/F0#1"), 2, "the plan holds A/F0#1, which is no unit"),
        (plan("A/F0#0 A/B0#0", "A/L1#0 A/F2#0"), 2, "the plan holds A/F2#0, which is no unit"),
        (plan("A/F0#0 A/B0#0", "A/L1#0 Z/L0#0"), 2, "the plan holds Z/L0#0, which is no unit"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(wrong: Plan, num_devices: int, message: str):
    with pytest.raises(PlanError, match=message):
        wrong.check(JOBS, num_devices)
    with pytest.raises(PlanError, match=message):
        simulate(JOBS, devices(num_devices), FollowPlan(wrong))


def test_a_fitting_plan_is_accepted():
    plan().check(JOBS, 2)


def edited(**fields: object) -> str:
    content = json.loads(plan().to_json()) | fields
    return json.dumps({key: value for key, value in content.items() if value != "absent"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file: Invalid JSON"),
        ("[]", "the file: Input should be an object"),
        (edited(version=2), "version: Input should be 1"),
        (edited(version="absent"), "version: Field required"),
        (edited(workload=7), "workload: Input should be a valid string"),
        (edited(devices="absent"), "devices: Field required"),
        (edited(devices=[[{"unit": "A/Z0#0"}]]), r"devices\.0\.0\.unit: .*'A/Z0#0' is not a unit"),
        (edited(devices=[[{"unit": "A/F" + "1" * 5000 + "#0"}]]), r"devices\.0\.0\.unit: "),
        (edited(devices=[[{"unit": "A/F0#0", "offset": -64}]]), r"devices\.0\.0\.offset: "),
        (edited(devices=[[{"unit": "A/F0#0", "mode": "guess"}]]), r"devices\.0\.0\.mode: "),
        (edited(makespan_s=float("inf")), "makespan_s: "),
        (edited(colour="red"), "colour: Extra inputs are not permitted"),
    ],
)
def test_a_malformed_plan_is_refused_with_the_field(tmp_path: Path, text: str, message: str):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=r"plan\.json: " + message):
        Plan.read(path)


def test_a_truncated_plan_is_refused_wherever_it_breaks_off(tmp_path: Path):
    text, path = plan().to_json(), tmp_path / "plan.json"
    for length in range(len(text.rstrip())):
        path.write_text(text[:length])
        with pytest.raises(PlanError, match=r"plan\.json"):
            Plan.read(path)


@pytest.mark.parametrize("write", [plan().write, Timeline(()).write])
def test_a_place_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path, write: object):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere" / "out.json", tmp_path / "file" / "out.json", tmp_path):
        with pytest.raises(HydraError, match="cannot write"):
            write(path)  # type: ignore[operator]
