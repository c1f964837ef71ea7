"""Logs say what happened while it happens, and a callback that fails is named."""

from __future__ import annotations

import csv
import io
import sys

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from executor import CpuDevice, CsvLog, DevicePool, LiveTable, MinibatchDone, TensorBoardLog, train
from executor.errors import ExecutionError
from tests.executor.worlds import small_job


@pytest.fixture(scope="module")
def pool():
    with DevicePool([CpuDevice(160_000)] * 2) as pool:
        yield pool


def test_callbacks_are_told_of_every_minibatch_in_its_jobs_order(pool):
    told: list[MinibatchDone] = []
    result = train([small_job("A", 3), small_job("B", 2)], pool.devices, pool=pool, callbacks=[told.append])
    for name, job in result.jobs.items():
        mine = [done for done in told if done.job == name]
        assert [done.number for done in mine] == list(range(len(job.losses)))
        assert tuple(done.loss for done in mine) == job.losses
        assert all(0 < done.at_s <= result.makespan_s and done.num_minibatches == len(job.losses) for done in mine)


def test_a_csv_file_a_job_grows_by_a_line_a_minibatch(pool, tmp_path):
    lines_seen = []
    with CsvLog(tmp_path / "logs") as log:
        path = tmp_path / "logs" / "A.csv"
        count = lambda done: lines_seen.append(len(path.read_text().splitlines()))  # noqa: E731
        result = train([small_job("A", 3)], pool.devices, pool=pool, callbacks=[log, count])
    assert lines_seen == [2, 3, 4]  # written at once, not at the end
    rows = list(csv.DictReader(path.open()))
    assert [float(row["loss"]) for row in rows] == list(result.jobs["A"].losses)
    assert [row["minibatch"] for row in rows] == ["0", "1", "2"]


def test_a_live_table_shows_the_newest_of_each_job():
    shown = io.StringIO()
    with LiveTable(Console(file=shown, width=80)) as table:
        for number in range(2):
            table(MinibatchDone("A", number, 5, 1.5 - number, 0.25))
    assert "A" in shown.getvalue()
    assert "2 / 5" in shown.getvalue()
    assert "0.5000" in shown.getvalue()


def test_tensorboard_is_written_and_read(tmp_path):
    with TensorBoardLog(tmp_path) as log:
        log(MinibatchDone("A", 0, 2, 2.5, 0.1))
        log(MinibatchDone("A", 1, 2, 1.25, 0.2))
        log(MinibatchDone("B", 0, 1, 3.0, 0.3))
    found = {job: EventAccumulator(str(tmp_path / job)).Reload().Scalars("loss") for job in "AB"}
    assert {job: [(event.step, event.value) for event in events] for job, events in found.items()} == {
        "A": [(0, 2.5), (1, 1.25)],
        "B": [(0, 3.0)],
    }


def test_tensorboard_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ExecutionError, match="needs the package tensorboard"):
        TensorBoardLog(tmp_path)


def test_a_callback_that_fails_is_named():
    def fail(done: MinibatchDone) -> None:
        raise ValueError("disk on fire")

    with pytest.raises(
        ExecutionError, match=r"callback failed after mini-batch 0 of job 'A': ValueError: disk on fire"
    ):
        train([small_job()], [CpuDevice(160_000)], callbacks=[fail], strict=True)
