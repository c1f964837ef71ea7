"""`file.py:function`: users' files with every mistake that they may have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.cli import app
from experiments.hostile.jobs import BAD
from experiments.jobs import load_jobs
from hydrasim.errors import WorkloadError

FILE = """
import sys
import torch
value = 7
def leaves():
    sys.exit(0)
def lacks():
    return torch.no_such_thing
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "users_file.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", "has no function 'nope'"),
        ("value", "has no function 'value'"),
        ("leaves", "failed: SystemExit: 0"),  # it once ended the program with success
        ("lacks", "failed: AttributeError: module 'torch' has no attribute 'no_such_thing'"),  # once: no such function
    ],
)
def test_a_function_that_gives_no_jobs_is_refused(file, name, message):
    with pytest.raises(WorkloadError, match=message):
        load_jobs(f"{file}:{name}")


@pytest.mark.parametrize("name", ["torch.py", "random.py", "json.py"])
def test_a_file_called_like_a_module_in_use_is_refused(tmp_path, name):
    # It took the module's place, and whatever imported that next failed.
    (tmp_path / name).write_text(FILE)
    with pytest.raises(WorkloadError, match="is called like the module '.*', which is in use; give it another name"):
        load_jobs(f"{tmp_path / name}:value")


@pytest.mark.parametrize("content", ["syntax error", "import no_such_module", "raise SystemExit", "\x00"])
def test_a_file_that_cannot_be_imported_is_refused(tmp_path, content):
    (tmp_path / "broken_file.py").write_text(content)
    with pytest.raises(WorkloadError, match="failed: "):
        load_jobs(f"{tmp_path / 'broken_file.py'}:jobs")


BEFORE_ANY_WORKER = [
    "empty", "negative_length", "empty_but_long", "no_jobs", "nothing", "numbers", "same_names", "bad_name",
    "no_name", "half_epochs", "text_epochs", "nan_steps", "huge_seed", "text_seed", "bad_cuts", "text_cuts", "no_loss",
    "vector_loss", "number_loss", "no_optimizer", "failing_optimizer", "leaving_optimizer", "lbfgs", "odd_batches",
    "text_batches", "missing_name", "leaves", "raises", "mumbles", "lacks_attribute", "huge_layer", "pilot_fail",
    "pilot_leave", "pilot_mumble",
]  # fmt: skip


@pytest.mark.parametrize("name", BEFORE_ANY_WORKER)
def test_bad_jobs_are_one_message_before_any_process_starts(name, tmp_path):
    from experiments.hostile import jobs

    (tmp_path / "my_jobs_here.py").write_text(Path(jobs.__file__).read_text())
    arguments = ["execute", f"{tmp_path / 'my_jobs_here.py'}:bad_{name}", "--memory", "200KB", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("Error: ") >= 1
    assert "Traceback" not in result.output


def test_a_loss_that_is_no_number_is_null_in_json(tmp_path):
    # JSON has no NaN, and printing it was a traceback after the whole training.
    from experiments.hostile import jobs

    (tmp_path / "my_jobs_there.py").write_text(Path(jobs.__file__).read_text())
    arguments = ["execute", f"{tmp_path / 'my_jobs_there.py'}:bad_nan_loss", "--memory", "200KB", "--devices", "1"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 1, result.output
    assert "null" in result.stdout
    [job] = json.loads(result.stdout, parse_constant=pytest.fail)["jobs"].values()
    assert job["status"] == "failed"
    assert "is nan" in job["error"]


def test_every_bad_job_is_known_by_name():
    assert set(BEFORE_ANY_WORKER) <= set(BAD)
