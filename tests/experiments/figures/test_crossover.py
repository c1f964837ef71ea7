"""When not to use SHARP: links as asked for, winners as the times say."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from experiments.figures import crossover, note
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
    ("lrtf_s", "fifo_s", "rivals_s", "winner", "even", "ratio"),
    [
        (4.0, 5.0, {"DDP": 6.0, "FSDP": 5.0}, "SHARP", False, 1.25),
        (6.0, 4.0, {"DDP": 6.0, "FSDP": 5.0}, "SHARP, by fifo alone", False, 1.25),
        (6.0, 5.0, {"DDP": 6.0, "FSDP": 4.0}, "FSDP", False, 0.8),
        (6.0, 4.0, {"task parallelism": 4.0156, "FSDP": 4.0}, "task parallelism", True, 1.0),
        (6.0, 4.0, {"FSDP": 4.0078125}, "FSDP", True, 1.001953125),
        (5.0, 4.5, {}, "SHARP", False, math.nan),
    ],
)
def test_the_winner_is_who_is_soonest_done_and_sharp_only_if_nothing_simpler_is(
    lrtf_s, fifo_s, rivals_s, winner, even, ratio
):
    ours = {"SHARP": Outcome(lrtf_s), "SHARP, by fifo alone": Outcome(fifo_s)}
    row = crossover._row(("m", 6, 2), 2, ours, {name: (seconds, 1) for name, seconds in rivals_s.items()})
    assert (row["winner"], row["even"]) == (winner, even)
    assert row["ratio"] == pytest.approx(ratio, nan_ok=True)


def test_rivals_train_jobs_beside_each_other_if_that_is_best():
    place = ("m", 6, 4)
    found = {(place, "DDP", "ddp", groups): Outcome(seconds) for groups, seconds in ((1, 3.0), (2, 5.0), (4, 16.0))}
    assert {n: crossover._best(found, place, n)["DDP"] for n in (1, 2, 4)} == {1: (3.0, 1), 2: (5.0, 2), 4: (10.0, 2)}


def test_where_a_model_fits_a_device_task_parallelism_is_as_fast_as_sharp(frame):
    rows = frame[(frame["model"] == "1B: fits one device") & (frame["num_jobs"] >= frame["num_devices"])]
    assert set(rows["winner"]) == {"task parallelism"}
    assert rows["even"].all()


def test_without_exchanges_a_rival_takes_as_long_for_two_jobs_as_for_one_on_half_the_devices(frame):
    hours = frame.set_index(["num_jobs", "num_devices", "model"])["task parallelism hours"]
    assert hours[2, 2, "1B: fits one device"] == pytest.approx(hours[1, 1, "1B: fits one device"], rel=0.01)


def test_rows_are_unique(frame):
    assert not frame.duplicated(list(crossover.ABOUT.keys)).any()


def test_what_does_not_fit_one_device_is_refused_there(frame):
    fits = frame[frame["num_jobs"] == 1].set_index(["model", "num_devices"])["DDP hours"].notna()
    assert fits["1B: fits one device"].all()
    assert not fits["6B: fits two together"].any()
    sharded = frame[frame["num_jobs"] == 1].set_index(["model", "num_devices"])["FSDP hours"].notna()
    assert sharded["6B: fits two together"].to_dict() == {1: False, 2: True, 4: True, 8: True}


def test_a_rival_that_is_not_the_best_may_beat_sharp_too():
    # SHARP takes 4 h by one policy or the other; within half a per cent nobody beats anybody
    rivals = {"GPipe": [3.0, 5.0, 3.0, 3.0], "FSDP": [2.0, 3.99, 5.0, math.nan], "ZeRO-3 offload": [1.0, 9.0, 9.0, 2.0]}
    table = pd.DataFrame({f"{name} hours": hours for name, hours in rivals.items()})
    table["SHARP hours"], table["SHARP, by fifo alone hours"] = [4.0, 9.0, 4.0, 4.0], [9.0, 4.0, 9.0, 9.0]
    assert crossover.beaten(table) == "GPipe beats SHARP in 3, FSDP in 1, ZeRO-3 offload in 2"


def test_it_is_drawn(frame):
    figure = crossover.draw(frame)
    assert len(figure.axes) == 2
    assert len(figure.axes[0].patches) == 2 * 4


def test_the_note_says_what_the_table_does():
    table = pd.read_csv(Path("results/crossover/data.csv"))
    text = note(crossover, table)
    assert "{" not in text
    few = table[table["num_jobs"] < table["num_devices"]]
    assert f"of {len(few)} such fields" in text
