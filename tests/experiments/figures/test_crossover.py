"""When not to use SHARP: links as asked for, winners as the times say."""

from __future__ import annotations

import math

import pytest

from experiments.figures import crossover
from experiments.paper.runs import Outcome


@pytest.fixture(scope="module")
def frame():
    return crossover.run(smoke=True)


def test_links_and_switches_have_the_speed_asked_for_and_peers_keep_theirs():
    cluster = crossover.machine(6).cluster
    assert {device.h2d.bytes_per_s for device in cluster.devices} == {6e9}
    assert {device.d2h.bytes_per_s for device in cluster.devices} == {6e9}
    assert {bus.bytes_per_s for bus in cluster.buses} == {6e9}
    assert {device.peer.bytes_per_s for device in cluster.devices if device.peer} == {250e9}


@pytest.mark.parametrize(
    ("lrtf_s", "fifo_s", "rivals_s", "winner", "ratio"),
    [
        (4.0, 5.0, {"DDP": 3.0, "FSDP": 2.0}, "SHARP", 1.0),
        (5.0, 4.0, {"DDP": 3.0, "FSDP": 2.0}, "SHARP, by fifo alone", 0.8),
        (5.0, 4.5, {"DDP": 3.0, "FSDP": 2.0}, "FSDP", 0.8),
        (5.0, 4.5, {}, "SHARP", math.nan),
    ],
)
def test_the_winner_is_who_trains_all_jobs_soonest(lrtf_s, fifo_s, rivals_s, winner, ratio):
    ours = {"SHARP": Outcome(lrtf_s), "SHARP, by fifo alone": Outcome(fifo_s)}
    row = crossover._row(("m", 6, 2), 2, ours, rivals_s)
    assert row["winner"] == winner
    assert row["ratio"] == pytest.approx(ratio, nan_ok=True)


def test_rows_are_unique_and_rivals_take_each_job_as_long_as_the_first(frame):
    assert not frame.duplicated(list(crossover.ABOUT.keys)).any()
    one, two = (frame[frame["num_jobs"] == count].set_index(["model", "num_devices"]) for count in (1, 2))
    for name in ("DDP hours", "FSDP hours", "GPipe hours"):
        twice = two[name] / one[name]
        assert twice.dropna().tolist() == pytest.approx([2.0] * twice.notna().sum())


def test_what_does_not_fit_one_device_is_refused_there(frame):
    fits = frame[frame["num_jobs"] == 1].set_index(["model", "num_devices"])["DDP hours"].notna()
    assert fits["1B: fits one device"].all()
    assert not fits["6B: fits two together"].any()
    sharded = frame[frame["num_jobs"] == 1].set_index(["model", "num_devices"])["FSDP hours"].notna()
    assert sharded["6B: fits two together"].to_dict() == {1: False, 2: True, 4: True, 8: True}


def test_it_is_drawn(frame):
    figure = crossover.draw(frame)
    assert len(figure.axes) == 2
    assert len(figure.axes[0].patches) == 2 * 4
