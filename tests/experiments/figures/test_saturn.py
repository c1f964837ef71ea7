"""Saturn's workload: what is quoted, what stands for it, and what must hold of techniques."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from experiments.figures import note, saturn
from hydrasim.systems.saturn import pools


@pytest.fixture(scope="module")
def frame():
    return saturn.run(smoke=True)


def test_the_workload_is_twelve_jobs_of_ten_epochs():
    jobs = saturn.jobs()
    assert len({job.name for job in jobs}) == 12
    assert {(job.model.batch_size, job.num_minibatches) for job in jobs} == {(16, 2990), (32, 1500)}


def test_all_devices_are_alike_and_share_as_much_as_before():
    cluster = saturn.machine().cluster
    assert pools(cluster) == [tuple(range(8))]
    assert [bus.bytes_per_s for bus in cluster.buses] == [4 * 13.2e9]


def test_ratios_are_to_one_gpu_spilling(frame):
    assert not frame.duplicated(list(saturn.ABOUT.keys)).any()
    rows = frame.set_index("system")
    assert rows.loc["Min-heuristic", "ratio"] == rows.loc["Min-heuristic", "paper_ratio"] == 1
    assert rows.loc["Saturn", "paper_ratio"] == pytest.approx(21 / 46.2)
    simulated = rows[rows["hours"].notna()]
    assert (simulated["ratio"] == simulated["hours"] / rows.loc["Min-heuristic", "hours"]).all()
    assert set(rows.index[rows["label"] == "quoted"]) == {"Random", "Optimus*-Greedy"}


def test_all_gpus_to_each_job_at_its_best_is_no_slower_than_any_one_technique(frame):
    hours = frame.set_index("system")["hours"]
    assert hours["Max-heuristic"] <= hours[["FSDP", "FSDP, checkpointed", "FSDP, offloaded", "GPipe"]].min()


def test_what_does_not_fit_is_refused_with_its_need(frame):
    error = frame.set_index("system").loc["DDP", "error"]
    need, memory = (int(number.replace(",", "")) for number in re.findall(r"([\d,]{9,})", error))
    assert need > 3 * 4 * 6.05e9  # 6B parameters, their gradients and DDP's buckets in fp32
    assert memory == 42_405_855_232


def test_it_is_drawn(frame):
    figure = saturn.draw(frame)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "refused: out of memory" in texts


def test_under_autocast_fsdp_moves_half():
    assert saturn.technique("fsdp", "autocast") == "fsdp:mixed_precision=true"
    assert saturn.technique("fsdp", "fp32") == "fsdp"
    assert saturn.technique("ddp", "autocast") == "ddp"


def test_the_note_says_what_the_table_does():
    table = pd.read_csv(Path("results/saturn/data.csv"))
    text = note(saturn, table)
    ratios = table.set_index(["precision", "system"])["ratio"]
    assert f"{ratios['autocast', 'SHARP, ours']:.2f} of its time under autocast" in text
