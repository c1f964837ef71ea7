"""Logs say what happened while it happens, and a callback that fails is named."""

from __future__ import annotations

import csv
import io
import sys

import pytest
from rich.console import Console

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


def test_tensorboard_is_written_or_asked_for(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def add_scalar(self, *what: object) -> None:
            written.append((self.folder, *what))

        def close(self) -> None:
            written.append("closed")

    fake = type(sys)("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    with TensorBoardLog(tmp_path) as log:
        log(MinibatchDone("A", 0, 1, 2.5, 0.1))
    assert written == [(str(tmp_path / "A"), "loss", 2.5, 0), "closed"]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ExecutionError, match="needs the package tensorboard"):
        TensorBoardLog(tmp_path)


def test_a_callback_that_fails_is_named():
    def fail(done: MinibatchDone) -> None:
        raise ValueError("disk on fire")

    with pytest.raises(
        ExecutionError, match=r"callback failed after mini-batch 0 of job 'A': ValueError: disk on fire"
    ):
        train([small_job()], [CpuDevice(160_000)], callbacks=[fail])
