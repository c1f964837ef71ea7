"""Claims: values are read and judged rightly, shared commands run once, and CLAIMS.md is what the catalogue says."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby

import pytest
import typer

from experiments.claims.__main__ import PAGE, chosen, record
from experiments.claims.catalogue import CLAIMS
from experiments.claims.check import Checked, ClaimError, check, check_committed, read_seen, value_at
from experiments.claims.claim import Claim, at_least, at_most, exactly, near, within
from experiments.claims.page import line, markdown
from experiments.figures import figure_names

ROWS = [{"system": "a", "size": 1, "ratio": "2.5"}, {"system": "b", "size": 1, "ratio": "4"}]


def claim(command: str = "echo 7", **fields: object) -> Claim:
    return replace(Claim("seven", "It is seven", command, exactly(7), "simulated", 0.1), **fields)


def verdicts(*claims: Claim, seen: dict[str, float] | None = None) -> list[str]:
    return [checked.verdict for checked in check(claims, seen or {})]


@pytest.mark.parametrize(
    ("expected", "passes", "fails"),
    [
        (exactly(6), (6.0,), (5.9, 6.1)),
        (at_most(1.5), (-3.0, 1.5), (1.6,)),
        (at_least(1.5), (1.5, 99.0), (1.4,)),
        (within(0.5), (-0.5, 0.0, 0.5), (-0.6, 0.6)),
        (near(0.25, "noise"), (6.0, 8.0, 10.0), (5.9, 10.1)),
    ],
)
def test_tolerance_has_two_sides(expected, passes, fails):
    assert all(expected.holds(value, seen=8.0) for value in passes)
    assert not any(expected.holds(value, seen=8.0) for value in fails)
    assert not expected.holds(float("nan"), seen=8.0)


def test_nothing_is_near_to_what_was_never_seen():
    assert not near(0.5, "noise").holds(7.0, seen=None)


def test_value_is_found_by_keys_and_rows():
    assert value_at({"rows": ROWS}, ("rows", {"system": "b", "size": "1"}, "ratio")) == 4.0
    assert value_at({"rows": ROWS}, ("rows", "ratio")) == 3.25
    assert value_at({"deep": {"ok": True}}, ("deep", "ok")) == 1.0
    assert value_at({"rows": [{"repeats": [1, 9, 2]}, {"repeats": [3, 4]}]}, ("rows", "repeats")) == 3.0
    assert value_at(7, ()) == 7.0


def test_what_counts_of_several_values_is_said():
    errors = [{"error": "0.5"}, {"error": "-2"}, {"error": "1.5"}, {"error": "1"}]
    assert value_at(errors, ("error",)) == 0.75
    assert value_at(errors, ("error",), "largest") == -2.0
    assert value_at(errors, ("error",), "share above 1") == 0.25


def test_the_page_says_what_counts_of_several_values():
    several = claim(file="data.csv", path=("ratio",), of="largest")
    assert "- seven: `$OUT/data.csv`, `ratio`, largest" in markdown([several], {})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("cols",), "there is no 'cols'"),
        (("rows", {"system": "c"}, "ratio"), "no row has {'system': 'c'}"),
        (("rows", "system"), "is no number"),
    ],
)
def test_what_is_not_there_is_said(path, message):
    with pytest.raises(ClaimError, match=message):
        value_at({"rows": ROWS}, path)


def test_commands_output_and_files_are_read():
    table = "printf 'system,ratio\\na,7\\n' > $OUT/data.csv; echo '{\"n\": 7}' > $OUT/summary.json; echo 7"
    shared = [
        claim(table),
        claim(table, file="data.csv", path=({"system": "a"}, "ratio")),
        claim(table, file="summary.json", path=("n",)),
    ]
    assert verdicts(*shared) == ["PASS"] * 3


def test_claims_of_one_command_share_its_run(tmp_path):
    counted = f"echo >> {tmp_path}/runs; wc -l < {tmp_path}/runs"
    assert verdicts(claim(counted, expected=exactly(1)), claim(counted, expected=exactly(2))) == ["PASS", "FAIL"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo broken >&2; exit 3", "exited with 3.\nbroken"),
        ("false | echo 7", "exited with 1"),
        ("echo seven", "the output is no JSON"),
    ],
)
def test_command_that_fails_is_a_claim_that_fails(command, reason):
    (checked,) = check([claim(command)], {})
    assert checked.verdict == "FAIL"
    assert reason in checked.reason


def test_file_that_is_not_written_is_a_claim_that_fails():
    (checked,) = check([claim(file="data.csv")], {})
    assert (checked.verdict, checked.reason) == ("FAIL", "the command left no data.csv.")


def test_without_a_gpu_its_claims_neither_pass_nor_fail(monkeypatch):
    monkeypatch.setattr("experiments.claims.check._has_gpu", lambda: False)
    (checked,) = check([claim("exit 1", gpu=True)], {})
    assert checked.verdict == "NOT RUN"
    assert line(checked, None) == "NOT RUN seven: there is no GPU here; expected 7"


def test_recording_writes_what_was_found_and_judges_promises_still(tmp_path):
    path, seen = tmp_path / "seen.json", {"other": 1.0}
    moved = Checked(claim(expected=near(0.1, "noise")), "FAIL", 9.0)
    assert record(moved, seen, path).verdict == "PASS"
    assert json.loads(path.read_text()) == {"other": 1.0, "seven": 9.0}
    assert record(Checked(claim(expected=at_most(8)), "FAIL", 9.0), seen, path).verdict == "FAIL"


def test_page_is_up_to_date():
    assert PAGE.read_text() == markdown(CLAIMS, read_seen()), "run python -m experiments.claims --write"


def test_catalogue_is_sound():
    names = [one.name for one in CLAIMS]
    assert len(set(names)) == len(names)
    runs = [command for command, _ in groupby(CLAIMS, key=lambda one: one.command)]
    assert len(set(runs)) == len(runs), "claims of one command must stand together, or it runs twice"
    assert set(read_seen()) <= set(names)
    for one in CLAIMS:
        assert one.expected.relative_fraction is None or one.expected.why, f"{one.name} needs a reason"
        figure, is_figure, _ = one.file.partition("/data.csv")
        assert not is_figure or figure in figure_names(), one.name


def test_committed_results_keep_what_is_claimed():
    failed = [line(checked, None) for checked in check_committed(CLAIMS, read_seen()) if checked.verdict == "FAIL"]
    assert not failed


def test_results_that_are_not_there_are_not_checked(tmp_path):
    (tmp_path / "summary.json").write_text('{"n": 8}')
    there, missing, printed = (
        claim(file="summary.json", path=("n",)), claim(file="data.csv"), claim(),
    )  # fmt: skip
    verdicts = [checked.verdict for checked in check_committed([there, missing, printed], {}, tmp_path)]
    assert verdicts == ["FAIL", "NOT RUN", "NOT RUN"]


def test_what_was_seen_keeps_every_promise():
    seen = read_seen()
    broken = [one.name for one in CLAIMS if one.name in seen and not one.expected.holds(seen[one.name], seen[one.name])]
    assert not broken


def test_quick_claims_are_quick_and_can_run_anywhere():
    quick = chosen([], quick=True)
    assert quick
    assert not any(one.gpu for one in quick)
    minutes = {one.command: one.minutes for one in quick}
    assert max(minutes.values()) <= 0.5
    assert sum(minutes.values()) < 2


def test_unknown_name_is_refused():
    assert [one.name for one in chosen(["fig6-bound"])] == ["fig6-bound"]
    with pytest.raises(typer.BadParameter, match="no claim is named nothing"):
        chosen(["nothing"])
