"""Why a unit ran when it did, told from tiny timelines that were drawn by hand."""

import pytest

from hydrasim import Cluster, Device, Link, Shard, Timeline, TrainingJob, Workload, simulate
from hydrasim.errors import TimelineError
from hydrasim.explain import explain
from hydrasim.planning import make_plan
from hydrasim.timeline import Span

HEADER = {"label": "simulated", "policy": "resident-lrtf", "num_devices": 2}

# h2d:0      0 . L L 3           L: load A/w0, after S
# d2h:1      S S                 S: store A/w0 of B's neighbour, from the start
# compute:0  B B . . A A         A waits two seconds for L, L two for S
SPANS = (
    Span(0, "store", 1, "d2h", "A/B0#0", 0.0, 2.0, "A/w0", 64),
    Span(1, "compute", 0, "compute", "B/F0#0", 0.0, 2.0, eligible=("B/F0#0", "C/F0#0")),
    Span(2, "load", 0, "h2d", "A/F0#1", 2.0, 4.0, "A/w0", 64, after=(0,)),
    Span(3, "compute", 0, "compute", "A/F0#1", 4.0, 6.0, after=(2,), eligible=("A/F0#1",)),
    Span(4, "compute", 0, "compute", "A/L1#1", 6.0, 7.0, after=(3,)),
)
TIMELINE = Timeline(SPANS, HEADER)


def test_the_chain_goes_back_from_the_load_to_the_store():
    explanation = explain(TIMELINE, "A/F0#1")
    assert [(r.span.number, r.cause, r.waited_s) for r in explanation.waited_for] == [
        (2, "data", 2.0),
        (1, "lane", 0.0),
    ]
    assert [(r.span.number, r.waited_s) for r in explanation.chain] == [(2, 2.0), (0, 2.0)]


def test_the_text_reads_as_sentences():
    assert explain(TIMELINE, "A/F0#1").text().splitlines() == [
        "A/F0#1 ran on device 0 from 4 s to 6 s (2 s), simulated under resident-lrtf.",
        "Chosen from: A/F0#1.",
        "It had to wait for:",
        "  load A/w0 on h2d:0, over at 4 s (its data or memory)",
        "  compute B/F0#0 on compute:0, over at 2 s (its lane)",
        "Why not earlier:",
        "  A/F0#1 waited 2 s for load A/w0 on h2d:0 (2 s to 4 s),",
        "    which waited 2 s for store A/w0 on d2h:1 (0 s to 2 s).",
    ]


def test_the_choice_is_told():
    text = explain(TIMELINE, "B/F0#0").text()
    assert "Chosen from: B/F0#0, C/F0#0." in text
    assert "It had to wait for nothing." in text
    assert "Why not earlier" not in text


def test_when_lane_and_data_end_together_the_lane_is_named():
    (first, *_) = explain(TIMELINE, "A/L1#1").waited_for
    assert (first.span.number, first.cause) == (3, "lane")
    assert "A/L1#1 queued behind compute A/F0#1 on compute:0" in explain(TIMELINE, "A/L1#1").text()


def test_a_device_that_was_held_back_was_waiting_for_a_choice():
    # compute:0  A . . C      C's device was free at 1; it was chosen when B ended
    # compute:1  B B B
    spans = (
        Span(0, "compute", 0, "compute", "A/F0#0", 0.0, 1.0),
        Span(1, "compute", 1, "compute", "B/F0#0", 0.0, 3.0),
        Span(2, "compute", 0, "compute", "C/F0#0", 3.0, 4.0),
    )
    explanation = explain(Timeline(spans, HEADER), "C/F0#0")
    assert [(r.span.unit, r.cause) for r in explanation.waited_for] == [("B/F0#0", "decision"), ("A/F0#0", "lane")]
    assert "C/F0#0 was chosen 2 s after its lane fell empty, at the end of compute B/F0#0" in explanation.text()


def test_model_parallelism_keeps_a_device_waiting():
    workload = Workload(tuple(TrainingJob(name, (Shard(1.0, 1.0),), 1) for name in "AB"))
    timeline = simulate(workload, Cluster.of(2, Device(1)), "model-parallel", effects="theory")
    assert "queued behind compute A/L0#0" in explain(timeline, "B/L0#0").text()


def test_disk_peers_and_updates_are_named():
    # disk      R . . .      one queue, whoever it serves
    #           . R . .
    # h2d:0     . . L .
    # host:0    . . . U      the update waits for the load and for what device 1 sends
    spans = (
        Span(0, "read", -1, "disk", "B/F0#0", 0.0, 1.0, "B/w0"),
        Span(1, "read", -1, "disk", "A/F0#0", 1.0, 2.0, "A/w0"),
        Span(2, "load", 0, "h2d", "A/F0#0", 2.0, 3.0, "A/w0", after=(1,)),
        Span(3, "send", 1, "peer", "A/B1#0", 1.0, 2.5, "A/g0#0", peer=0),
        Span(4, "update", 0, "host", "A/U0#0", 3.0, 4.0, after=(2, 3)),
    )
    assert explain(Timeline(spans, HEADER), "A/U0#0").text().splitlines() == [
        "A/U0#0 ran on the host for device 0 from 3 s to 4 s (1 s), simulated under resident-lrtf.",
        "Chosen from: not recorded.",
        "It had to wait for:",
        "  load A/w0 on h2d:0, over at 3 s (its data or memory)",
        "  send A/g0#0 on peer:1 to device 0, over at 2.5 s (its data or memory)",
        "Why not earlier:",
        "  A/U0#0 waited 3 s for load A/w0 on h2d:0 (2 s to 3 s),",
        "    which waited 2 s for read A/w0 on disk (1 s to 2 s),",
        "      which queued behind read B/w0 on disk (0 s to 1 s).",
    ]


def test_an_unknown_unit_comes_with_near_ones():
    with pytest.raises(TimelineError, match=r"no unit 'A/F0#11' among its 3; did you mean A/F0#1"):
        explain(TIMELINE, "A/F0#11")
    with pytest.raises(TimelineError, match="write it as job/F0#17"):
        explain(TIMELINE, "zzzzzzzz")


def test_a_planned_unit_names_its_policy_and_survives_the_file(tmp_path):
    shard = Shard(1.0, 1.0, parameter_bytes=1024, output_bytes=64)
    workload = Workload((TrainingJob("A", (shard,) * 2, 2),))
    _, timeline = make_plan(workload, Cluster.of(1, Device(4096, h2d=Link(1024.0))), "fifo")
    timeline.write(tmp_path / "timeline.jsonl")  # holds a fetch that takes no time at time 0
    explanation = explain(Timeline.read(tmp_path / "timeline.jsonl"), "A/F0#0")
    assert "simulated under fifo." in explanation.text()
    assert "Chosen from: A/F0#0 (as planned)." in explanation.text()
    assert explanation.chain[0].span.block == "A/w0"
    assert explanation.chain[0].waited_s == 1.0


def test_a_long_chain_is_cut():
    workload = Workload((TrainingJob("A", (Shard(1.0, 1.0),), 50),))
    timeline = simulate(workload, Cluster.of(1, Device(1)), "fifo", effects="theory")
    assert len(explain(timeline, "A/L0#49").chain) == 6
