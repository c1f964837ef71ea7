"""Checkpoints of jobs on disk: safetensors and JSON, each whole or not there at all.

    FOLDER/A/00000120/model-00001-of-00003.safetensors ..      model.safetensors.index.json, as Hugging Face has it
                      optimizer-00001-of-00003.safetensors ..  optimizer.safetensors.index.json
                      progress.safetensors                     losses, metrics, random states, the loader's place
                      checkpoint.json                          what they are of; sizes and checksums of all others

Tensors go by the names that the user's model has for its parameters, so that a job may be cut otherwise when it goes
on. Written in a folder of another name, which takes its own when all is on disk.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from executor.errors import CheckpointError
from executor.weights import Saved, Weights, index_of
from hydrasim.disk import make_folder, read_text, write_text
from hydrasim.errors import HydraError
from hydrasim.files import parse_json
from hydrasim.schemas import Strict, Whole

Status = Literal["running", "stopped"]
OPTIMIZER = "optimizer"
_NAME = re.compile(r"[0-9]{8,18}")
_FACTS, _PROGRESS = "checkpoint.json", "progress.safetensors"
_MOST_BYTES = 1 << 30  # of losses, metrics and random states
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps checkpoints of its jobs, and how often.

    every: a job's state is saved after so many mini-batches that are trained on, with the step that completes them, and
    at its end; None for its end alone, and for Ctrl-C. keep: how many of a job's checkpoints stay, the newest ones.

    Raises:
        CheckpointError: every or keep is below 1.
    """

    folder: Path
    every: int | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        if (self.every is not None and self.every < 1) or self.keep < 1:
            raise CheckpointError(f"checkpoints: every is {self.every}, keep is {self.keep}; they must be at least 1.")

    @property
    def interval(self) -> int:
        """After how many mini-batches a job's state is saved, more than there are if only at its end."""
        return sys.maxsize if self.every is None else self.every

    def of(self, job: str) -> Path:
        """Return the folder of a job."""
        return Path(self.folder) / job

    def newest(self, job: str) -> Checkpoint | None:
        """Return the newest checkpoint of a job, None if it has none.

        Raises:
            CheckpointError: there are some, and none is whole.
        """
        damaged = None
        for path in checkpoints_in(self.of(job)):
            try:
                return Checkpoint.open(path)
            except CheckpointError as reason:
                damaged = damaged or reason
        if damaged is not None:
            raise damaged
        return None


class FileFacts(Strict):
    """A file of a checkpoint."""

    nbytes: Whole
    crc32: Annotated[int, Field(ge=0, lt=1 << 32)]


class Facts(Strict):
    """What a checkpoint is of. minibatch: at which its job goes on; the others say what must not change until then."""

    version: Literal[1] = 1
    minibatch: Whole
    status: Status
    optimizer: str
    minibatches: Whole
    evaluation_minibatches: Whole
    accumulate: Whole
    scale: tuple[float, Whole, bool] | None = None
    files: dict[str, FileFacts] = Field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole."""

    path: Path
    facts: Facts

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Return the checkpoint in a folder, once all its files were found to be as they were written.

        Raises:
            CheckpointError: one is not.
        """
        facts = parse_json(read_text(path / _FACTS, CheckpointError), Facts, CheckpointError, str(path / _FACTS))
        if path_of(path.parent, facts.minibatch) != path:
            raise CheckpointError(f"{path / _FACTS} is of mini-batch {facts.minibatch}, which its folder is not.")
        for name, expected in facts.files.items():
            if Path(name).name != name or _facts_of(path / name) != expected:
                raise CheckpointError(f"{path / name} is not as it was written: damaged, or put there by others.")
        return cls(path, facts)

    @cached_property
    def weights(self) -> Weights:
        """The parameters, and the buffers that training changes."""
        return Weights(self.path)

    @cached_property
    def optimizer(self) -> Weights:
        """The optimizer's state, by parameter and what it is."""
        return Weights(self.path / index_of(OPTIMIZER))

    @cached_property
    def progress(self) -> dict[str, torch.Tensor]:
        """Losses, metrics, random states.

        Raises:
            CheckpointError: the file is no such one.
        """
        path = self.path / _PROGRESS
        if _PROGRESS not in self.facts.files or self.facts.files[_PROGRESS].nbytes > _MOST_BYTES:
            raise CheckpointError(f"{path} is missing, or too large to be of ours.")
        try:
            found = load_file(path)
        except (OSError, SafetensorError) as reason:
            raise CheckpointError(f"cannot read {path}: {reason}.") from None
        if missing := {"losses", "metrics"} - found.keys():
            raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}.")
        return found

    def numbers(self, what: Literal["losses", "metrics"]) -> list[float]:
        """Return the losses, one a mini-batch, or the metrics, one an evaluation."""
        found: list[float] = self.progress[what].double().flatten().tolist()
        return found


class Writer:
    """A checkpoint that is being written. model, optimizer: take its tensors, a file a shard."""

    def __init__(self, folder: Path, num_files: int) -> None:
        self._folder = folder
        self.model, self.optimizer = Saved(folder, num_files), Saved(folder, num_files, OPTIMIZER)

    def finish(self, facts: Facts, progress: Mapping[str, torch.Tensor]) -> None:
        """Write the rest, and see that all is on disk."""
        self.model.close()
        self.optimizer.close()
        save_file(dict(progress), self._folder / _PROGRESS)
        files = {path.name: _facts_of(path, sync=True) for path in sorted(self._folder.iterdir())}
        _write_facts(self._folder, facts.model_copy(update={"files": files}))


def restate(folder: Path, facts: Facts) -> bool:
    """Have a job's checkpoint say other facts, if there is one of their mini-batch; tell whether there was."""
    try:
        found = Checkpoint.open(path_of(folder, facts.minibatch))
    except CheckpointError:
        return False
    _write_facts(found.path, facts.model_copy(update={"files": found.facts.files}))
    return True


@contextmanager
def writing(folder: Path, minibatch: int, num_files: int, keep: int) -> Iterator[Writer]:
    """Yield what writes a job's checkpoint; that counts when all went well, and then older ones go.

    folder: the job's.

    Raises:
        CheckpointError: it cannot be written.
    """
    temporary, final = folder / f".{minibatch:08}.tmp", path_of(folder, minibatch)
    try:
        make_folder(folder)
        _remove(temporary)
        try:
            yield Writer(temporary, num_files)
            _remove(final)  # which is damaged
            temporary.rename(final)
            _sync(folder)
        finally:
            _remove(temporary)
        for old in checkpoints_in(folder)[keep:]:
            _remove(old)
    except (OSError, SafetensorError, HydraError) as reason:
        told = getattr(reason, "strerror", None) or reason
        raise CheckpointError(f"cannot write the checkpoint {final}: {told}") from None


def path_of(folder: Path, minibatch: int) -> Path:
    """Return where a job's checkpoint lies, from which it goes on at a mini-batch."""
    return folder / f"{minibatch:08}"


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the folders of a job's checkpoints, the newest first."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _facts_of(path: Path, *, sync: bool = False) -> FileFacts | None:
    """Return a file's length and checksum, None if it is no file; links are none."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if sync:
                os.fsync(file.fileno())
            nbytes = crc32 = 0
            while piece := file.read(_PIECE_BYTES):
                nbytes, crc32 = nbytes + len(piece), zlib.crc32(piece, crc32)
    except OSError:
        return None
    return FileFacts(nbytes=nbytes, crc32=crc32)


def _write_facts(folder: Path, facts: Facts) -> None:
    write_text(folder / _FACTS, json.dumps(facts.model_dump(), indent=1) + "\n")
    _sync(folder / _FACTS)
    _sync(folder)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
