"""Rival systems on the command line."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from experiments.cli import app
from hydrasim import Timeline
from hydrasim.systems import systems
from tests.experiments.worlds import as_json, write_world

WORLD = "workload.yaml --cluster cluster.yaml"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command):
    return CliRunner().invoke(app, shlex.split(command))


def json_of(command):
    result = run(f"{command} --json")
    assert result.exit_code == 0, result.stderr
    return as_json(result.stdout)


@pytest.mark.parametrize(
    ("system", "expected_s"),
    [
        ("deepspeed-mp", 12.0),
        ("deepspeed-mp-task", 8.0),
        ("1f1b", 9.0),  # of each job (2 + 1) / 2 of a stage's passes
        ("gpipe", 10.5),  # of each stage, one forward of two again
    ],
)
def test_fig6(system, expected_s):
    assert json_of(f"simulate --preset paper-fig6 --system {system}")["makespan_s"] == expected_s


def test_simulate_says_whose_run_it_is_and_what_it_needs():
    found = json_of(f"simulate {WORLD} --system gpipe --option microbatches=4")
    assert (found["system"], found["policy"], found["label"]) == ("gpipe", "gpipe", "simulated")
    assert len(found["peak_bytes"]) == 2
    assert found["makespan_s"] > 0


def test_simulate_shows_and_writes_a_run_as_any_other(folder):
    result = run(f"simulate {WORLD} --system deepspeed-mp -o run.jsonl --gantt run.png --trace run.json")
    assert result.stdout.startswith("simulated: makespan ")
    assert Timeline.read(folder / "run.jsonl").header["system"] == "deepspeed-mp"
    assert (folder / "run.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "run.json").read_text())["traceEvents"]


def test_sharp_is_the_default():
    assert json_of(f"simulate {WORLD} --system sharp --policy fifo") == json_of(f"simulate {WORLD} --policy fifo")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--system gpipe --policy fifo", "--policy goes with --system sharp; gpipe follows none."),
        ("--system gpipe --plan plan.json", "--plan goes with --system sharp; gpipe follows none."),
        ("--option microbatches=4", "--option sets options of rival systems; sharp has --policy"),
        ("--system gpipe --option microbatches", "--option microbatches sets nothing; write it as KEY=VALUE"),
        ("--system gpipe --option =4", "--option =4 sets nothing"),
        ("--system gpipe --option microbatches=0", "SystemRefused: gpipe: microbatches is 0"),
        ("--system gpipe --option chunks=4", "system gpipe has no option 'chunks'"),
        ("--system alpa", "no system is named 'alpa'; there are sharp, 1f1b, "),
        ("--system flexflow", "FlexFlow is not simulated"),
    ],
)
def test_a_mistake_is_one_message(options, message):
    result = run(f"simulate {WORLD} {options}")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_system_that_does_not_fit_is_refused(folder):
    result = run("simulate workload.yaml --devices 2 --memory 2KiB --system deepspeed-mp")
    assert result.exit_code == 2
    assert "deepspeed-mp on 2 devices needs 3,072 bytes of device 0 for 'A'; it has 2,048." in result.stderr


def test_systems_lists_every_one_and_those_that_are_quoted():
    result = run("systems")
    assert result.exit_code == 0
    found = json_of("systems")
    by_name = {row["system"]: row for row in found["systems"]}
    assert set(by_name) == {*systems(), "FlexFlow"}
    assert {row["label"] for row in found["systems"] if row["system"] != "FlexFlow"} == {"simulated"}
    assert by_name["FlexFlow"]["label"] == "quoted"
    assert by_name["gpipe"]["options"] == {
        "microbatches": None, "recompute": "except_last", "microbatch_overhead_s": 0.0
    }  # fmt: skip
    assert all(row["source"] and row["summary"] for row in found["systems"])
    assert {quote["label"] for quote in found["quotes"]} == {"quoted"}


def test_compare_puts_systems_beside_policies():
    rows = json_of("compare --preset paper-fig6 --policies fifo --systems gpipe,deepspeed-mp")["rows"]
    assert [(row["policy"], row["makespan_s"]) for row in rows] == [
        ("fifo", 8.0), ("gpipe", 10.5), ("deepspeed-mp", 12.0)
    ]  # fmt: skip
    rows = json_of("compare --preset paper-fig6 --policies fifo --systems all")["rows"]
    assert [row["policy"] for row in rows[1:]] == list(systems())


def test_compare_goes_on_without_a_system_that_does_not_fit():
    result = run("compare workload.yaml --devices 2 --memory 5KiB --policies fifo --systems deepspeed-mp,ddp")
    assert result.exit_code == 0
    assert "ddp: ddp on 2 devices needs" in result.stderr
    assert run("compare --preset paper-fig6 --systems alpa").exit_code == 2
    assert "--systems has all beside other names" in run("compare --preset paper-fig6 --systems all,gpipe").stderr
    assert "sharp is what the rows of --policies are" in run("compare --preset paper-fig6 --systems sharp").stderr


@pytest.mark.parametrize("option", ["--mechanism paper", "--no-prefetch", "--loading-zone 0.5"])
def test_switches_of_sharp_do_not_go_with_a_rival(option):
    result = run(f"simulate --preset paper-fig6 --system gpipe {option}")
    assert result.exit_code == 2
    assert "goes with --system sharp" in result.stderr
