"""Checkpoints are whole or not there, whoever wrote them, and whatever was done to them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from executor.checkpoint import Checkpoint, Checkpoints, Facts, checkpoints_in, path_of, restate, writing
from executor.errors import CheckpointError
from executor.randomness import save, seed_all, state_of, tensors_of

FACTS = Facts(minibatch=0, status="running", optimizer="AdamW", minibatches=9, evaluation_minibatches=0, accumulate=1)


def write(folder: Path, minibatch: int, keep: int = 2) -> Path:
    """Write a checkpoint of two shards; return its folder."""
    with writing(folder, minibatch, 2, keep) as writer:
        for shard in (0, 1):
            writer.model.add({f"{shard}.weight": torch.full((3, 2), float(minibatch))})
            writer.optimizer.add({f"{shard}.weight.exp_avg": torch.full((3, 2), 0.5)})
        progress = {"losses": torch.tensor([0.1] * minibatch, dtype=torch.float64), "metrics": torch.zeros(0)}
        writer.finish(FACTS.model_copy(update={"minibatch": minibatch}), progress)
    return path_of(folder, minibatch)


def test_what_was_written_is_read(tmp_path):
    found = Checkpoint.open(write(tmp_path, 7))
    assert found.facts.minibatch == 7
    assert found.numbers("losses") == [0.1] * 7
    assert found.numbers("metrics") == []
    assert found.weights.read("1.weight").tolist() == [[7.0, 7.0]] * 3
    assert found.optimizer.read("0.weight.exp_avg").tolist() == [[0.5, 0.5]] * 3


def test_the_newest_whole_one_counts_and_the_others_go(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest("A") is None
    for minibatch in (3, 6, 9):
        write(tmp_path / "A", minibatch)
    assert [path.name for path in checkpoints_in(tmp_path / "A")] == ["00000009", "00000006"]
    newest = checkpoints.newest("A")
    assert newest is not None
    assert newest.facts.minibatch == 9


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


HARM = {"cut": _cut, "flipped": _flip, "gone": Path.unlink, "a link": _link, "a pipe": _pipe}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "progress.safetensors", "checkpoint.json"])
def test_a_damaged_one_is_passed_over_and_said_so_when_it_was_the_only_one(harm, name, tmp_path):
    if (harm, name) == (_link, "checkpoint.json"):
        pytest.skip("a link to the facts leads to facts, which are checked")
    write(tmp_path / "A", 3)
    newest = write(tmp_path / "A", 6)
    harm(newest / name)
    if name == "checkpoint.json" and harm is _flip:
        (newest / name).write_text("{" + (newest / name).read_text())
    found = Checkpoints(tmp_path).newest("A")
    assert found is not None
    assert found.facts.minibatch == 3
    shutil.rmtree(tmp_path / "A" / "00000003")
    with pytest.raises(CheckpointError, match="00000006"):
        Checkpoints(tmp_path).newest("A")


BAD_FACTS = {
    "no JSON": "{",
    "another version": {"version": 2},
    "a field too much": {"more": 1},
    "another mini-batch": {"minibatch": 5},
    "a huge mini-batch": {"minibatch": 1 << 70},
    "a file elsewhere": {"files": {"../../etc/passwd": {"nbytes": 1, "crc32": 1}}},
    "another status": {"status": "done"},
}


@pytest.mark.parametrize("change", BAD_FACTS.values(), ids=BAD_FACTS)
def test_facts_are_checked(change, tmp_path):
    path = write(tmp_path, 3)
    facts = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(change if isinstance(change, str) else json.dumps(facts | change))
    with pytest.raises(CheckpointError):
        Checkpoint.open(path)


def test_what_fails_half_way_leaves_nothing_and_the_old_one_stays(tmp_path):
    write(tmp_path, 3)

    def fill() -> None:
        with writing(tmp_path, 6, 2, 1) as writer:
            writer.model.add({"0.weight": torch.zeros(2)})
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*00000006: No space left"):
        fill()
    assert [path.name for path in tmp_path.iterdir()] == ["00000003"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    (tmp_path / ".00000003.tmp").mkdir()
    (tmp_path / ".00000003.tmp" / "model-00001-of-00002.safetensors").write_bytes(b"half")
    write(tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["00000003"]


def test_facts_are_restated_without_a_new_copy(tmp_path):
    path = write(tmp_path, 3)
    before = (path / "model-00001-of-00002.safetensors").stat().st_mtime_ns
    assert restate(tmp_path, FACTS.model_copy(update={"minibatch": 3, "status": "stopped"}))
    assert Checkpoint.open(path).facts.status == "stopped"
    assert (path / "model-00001-of-00002.safetensors").stat().st_mtime_ns == before
    assert not restate(tmp_path, FACTS.model_copy(update={"minibatch": 4}))


@pytest.mark.parametrize("fields", [{"every": 0}, {"keep": 0}])
def test_numbers_below_one_are_refused(fields, tmp_path):
    with pytest.raises(CheckpointError, match="must be at least 1"):
        Checkpoints(tmp_path, **fields)


def test_random_states_go_through_plain_tensors(tmp_path):
    import random

    import numpy

    seed_all(3)
    random.gauss(0, 1), numpy.random.normal(), torch.rand(3)
    state = save()
    save_file(tensors_of(state), tmp_path / "state.safetensors")
    assert state_of(load_file(tmp_path / "state.safetensors")) == state


@pytest.mark.parametrize("name", ["torch", "python", "numpy"])
def test_random_states_of_others_are_refused(name):
    tensors = tensors_of(save())
    tensors[name] = tensors[name][:-3]
    with pytest.raises((ValueError, RuntimeError, TypeError, LookupError)):
        state_of(tensors)


def test_a_random_state_that_would_fill_the_memory_is_refused():
    tensors = tensors_of(save()) | {"python": torch.zeros(1, dtype=torch.int64).expand(1 << 40)}
    with pytest.raises(ValueError, match="python is too large for a random state"):
        state_of(tensors)
