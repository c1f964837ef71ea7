"""A timeline as columns: nothing is lost that the page shows, and every name is kept once."""

import json

import pytest

from experiments.html_report import timelines
from experiments.html_report.timelines import Run, run_fields
from hydrasim.command import HOST
from hydrasim.gantt import job_colours
from tests.experiments.html_report.worlds import timeline


@pytest.fixture
def fields() -> dict:
    return run_fields(Run("run", (("simulated", timeline()), ("emulated", timeline("emulated", 1.0))), (256,)))


def column(spans: dict, name: str) -> list[str]:
    return [spans[name]["names"][place] for place in spans[name]["at"]]


def test_spans_stand_in_the_order_of_their_starts(fields):
    spans = fields["timelines"][0]["spans"]
    assert column(spans, "kind") == ["fetch", "load", "compute", "compute", "store"]
    assert column(spans, "lane") == ["host", "h2d", "compute", "compute", "d2h"]
    assert column(spans, "unit") == ["A/F0#0", "A/F0#0", "A/F0#0", "B/B0#0", "A/F0#0"]
    assert column(spans, "block") == ["", "A/w0", "", "", "A/x1#0"]
    assert spans["unit"]["names"] == ["A/F0#0", "B/B0#0"]
    assert spans["start"] == [0.0, 0.0, 1.0, 3.0, 4.0]
    assert spans["end"] == [0.5, 1.0, 3.0, 5.0, 5.0]
    assert spans["device"] == [HOST, 0, 0, 0, 0]
    assert spans["bytes"] == [0, 64, 0, 0, 32]
    assert spans["job"] == [0, 0, 0, 1, 0]


def test_every_span_names_what_it_waited_for(fields):
    spans = fields["timelines"][0]["spans"]
    assert spans["why"] == [-1, 0, 1, 2, 2]
    assert column(spans, "cause") == ["", "data", "data", "lane", "data"]
    assert spans["waited"] == [0, 0.5, 1.0, 0.0, 3.0]


def test_counters_are_those_of_the_trace(fields):
    counters = {(c["device"], c["name"]): (c["at"], c["value"]) for c in fields["timelines"][0]["counters"]}
    assert counters == {
        (0, "memory in use"): ([1.0, 3.0], [64, 128]),
        (0, "h2d rate"): ([0.0, 1.0], [64, 0]),
        (0, "d2h rate"): ([4.0, 5.0], [32, 0]),
        (HOST, "host link rate"): ([0.0, 1.0, 4.0, 5.0], [64, 0, 32, 0]),
    }
    assert [c["isMemory"] for c in fields["timelines"][0]["counters"]] == [True, False, False, False]


def test_jobs_have_the_colours_of_the_gantt_chart(fields):
    assert fields["jobs"] == [{"name": "A", "colour": "#0072b2"}, {"name": "B", "colour": "#e69f00"}]
    assert list(job_colours([("", timeline())])) == ["A", "B"]


def test_headers_say_what_run_it_was(fields):
    first, second = fields["timelines"]
    assert (first["label"], first["policy"], first["makespan"], first["busy"]) == ("simulated", "fifo", 5.0, 0.8)
    assert (second["label"], second["makespan"], second["numDevices"]) == ("emulated", 6.0, 1)
    assert fields["arenaBytes"] == (256,)


def test_a_plan_that_was_followed_is_named_by_who_made_it():
    assert timelines.policy(timeline(policy="follow-plan", planned_by="lrtf")) == "lrtf"
    assert timelines.label(timeline("")) == "unlabelled"


def test_what_is_too_long_is_cut_and_said(monkeypatch):
    monkeypatch.setattr(timelines, "MAX_SPANS", 3)
    run = Run("run", (("long.jsonl", timeline()),))
    assert run.cuts == ["Of long.jsonl the first 3 of 5 spans are shown."]
    spans = run_fields(run)["timelines"][0]["spans"]
    assert column(spans, "kind") == ["fetch", "load", "compute"]
    assert Run("run", (("short", timeline()),)[:0]).cuts == []


def test_times_are_rounded_below_what_can_be_seen():
    late = timeline(late_s=1 / 3)
    spans = run_fields(Run("run", (("", late),)))["timelines"][0]["spans"]
    assert spans["start"][1] == 0.333333
    json.dumps(spans, allow_nan=False)


def test_devices_are_told_timeline_by_timeline():
    rows = Run("run", (("a", timeline()), ("b", timeline("emulated", 1.0)))).device_rows
    assert [(name, label, row.device, row.num_units, row.h2d_bytes) for name, label, row in rows] == [
        ("a", "simulated", 0, 2, 64),
        ("b", "emulated", 0, 2, 64),
    ]
