"""Files are checked as they are read; what is wrong with one is said in a sentence."""

import json

import pytest

from experiments.html_report.files import Comparison, DemoSummary, Fidelity, read_json
from hydrasim.errors import HydraError
from tests.experiments.html_report.worlds import comparison, demo, validation


def written(tmp_path, value) -> Comparison:
    path = tmp_path / "comparison.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_json(path, Comparison)


def test_a_comparison_has_its_best_policy_first_and_the_tightest_bound(tmp_path):
    found = written(tmp_path, comparison())
    assert [row.policy for row in found.by_makespan] == ["fifo", "random"]
    assert found.bound_s == 4.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "comparison.json is no JSON: "),
        ("[" * 100_000, "comparison.json is no JSON: "),
        ("[]", "comparison.json is not what the page can show: it: Input should be a valid dictionary"),
        (json.dumps(comparison() | {"rows": []}), "rows: List should have at least 1 item"),
        (json.dumps(comparison() | {"naive_s": float("nan")}), "naive_s: Input should be a finite number"),
    ],
)
def test_what_is_no_comparison_is_refused(tmp_path, text, message):
    with pytest.raises(HydraError) as refusal:
        written(tmp_path, text)
    assert message in str(refusal.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(HydraError, match="cannot read .*nothing.json"):
        read_json(tmp_path / "nothing.json", Comparison)


def test_the_demo_compares_its_policies_and_the_two_that_were_executed():
    found = DemoSummary.model_validate(demo()).comparison()
    assert found.title == "The demo's 2 jobs on 1 devices"
    rows = [(row.policy, row.makespan_s, row.ratio_to_bound, row.measured_s) for row in found.by_makespan]
    assert rows == [("fifo", 5.0, 1.25, 6.0), ("random", 8.0, 2.0, 9.0), ("lrtf", None, None, None)]


def test_the_axis_of_errors_reaches_the_farthest_one():
    assert Fidelity.model_validate(validation()).reach_fraction == 0.3  # the naive predictor is 25 % off
