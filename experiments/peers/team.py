"""A contender's processes, from the race's side: started together, asked together, ended together, whatever happens."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any

from executor.process import Child
from experiments.peers.contender import Losses, Options, Rank, Run, Task
from experiments.peers.registry import find_contender
from experiments.peers.worker import Enter
from hydrasim.errors import HydraError

_STORY_LINES = 12


class PeerFailed(HydraError):
    """A contender failed, ended, or took longer than it may; it says which rank, and the last it said."""


@dataclass(frozen=True)
class Limits:
    """How long a contender may take. begin_s: to start, compile what it compiles, build the jobs, and warm up."""

    begin_s: float = 900.0
    run_s: float = 300.0


class Team:
    """The ranks of one contender. Use it as a context manager; leaving it ends every process."""

    def __init__(self, name: str, task: Task, *, num_ranks: int | None = None, limits: Limits | None = None) -> None:
        self.name, self._limits = name, limits or Limits()
        self._folder = tempfile.TemporaryDirectory(prefix="hydrasim-peer-")
        folder = Path(self._folder.name)
        count = num_ranks or find_contender(name).num_ranks
        self._ranks = [
            Enter(name, task, Rank(index, count, str(folder / "rendezvous")), str(folder / f"rank{index}.log"))
            for index in range(count)
        ]
        self._children: list[Child] = []

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._children]

    def begin(self, options: Options) -> None:
        """Have every rank build the jobs anew, in a process if it has none yet.

        Raises:
            PeerFailed: a rank could not, or not in time.
        """
        if not self._children:
            self._start()
        self._ask("begin", dict(options), limit_s=self._limits.begin_s)

    def run(self, minibatches: Mapping[str, int], *, is_first: bool = False) -> Run:
        """Have all jobs trained for so many more mini-batches; return the run as a whole.

        is_first: what is to be set up is set up now, and so it may take longer.

        Raises:
            PeerFailed: a rank could not, or not in time.
        """
        limit_s = self._limits.begin_s if is_first else self._limits.run_s
        runs: list[Run] = self._ask("run", dict(minibatches), limit_s=limit_s)
        losses, core_s = _joined([run.losses for run in runs]), Counter[str]()
        for run in runs:
            core_s.update(run.core_s)
        return Run(min(run.begin_s for run in runs), max(run.end_s for run in runs), losses, dict(core_s))

    def memory_bytes(self) -> int | None:
        """Return what the fullest rank holds at most; None if they do not know."""
        found = self._ask("memory", limit_s=self._limits.run_s)
        return max((nbytes for nbytes in found if nbytes is not None), default=None)

    def facts(self) -> dict[str, Any]:
        """Return what the first rank tells of its settings."""
        facts: dict[str, Any] = self._ask("facts", limit_s=self._limits.run_s)[0]
        return facts

    def close(self) -> None:
        """End every process, whatever it is doing."""
        for child in self._children:
            child.kill()
        self._children = []
        self._folder.cleanup()

    def _start(self) -> None:
        for entered in self._ranks:
            self._children.append(Child("experiments.peers.worker"))
            self._children[-1].connection.send(entered)

    def _ask(self, *request: Any, limit_s: float) -> list[Any]:
        """Put a request to all ranks, and wait for all answers; when one fails, none is left running."""
        try:
            for child in self._children:
                child.connection.send(request)
            return self._answers(request[0], time.monotonic() + limit_s, limit_s)
        except OSError:
            story = self._story(0)
            self.close()
            raise PeerFailed(f"{self.name}: a process ended before it was asked to {request[0]}.{story}") from None
        except BaseException:
            self.close()
            raise

    def _answers(self, what: str, deadline_s: float, limit_s: float) -> list[Any]:
        answers: dict[int, Any] = {}
        index_of = {id(child.connection): index for index, child in enumerate(self._children)}
        while len(answers) < len(self._children):
            open_ones = [child.connection for index, child in enumerate(self._children) if index not in answers]
            ready = wait(open_ones, timeout=max(0.0, deadline_s - time.monotonic()))
            if not ready:
                silent = min(set(range(len(self._children))) - set(answers))
                raise PeerFailed(
                    f"{self.name}: rank {silent} did not {what} within {limit_s:g} s, and was killed."
                    f"{self._story(silent)}"
                )
            for connection in ready:
                index = index_of[id(connection)]
                answers[index] = self._answer(index, what)
        return [answers[index] for index in sorted(answers)]

    def _answer(self, index: int, what: str) -> Any:
        try:
            status, value = self._children[index].connection.recv()
        except (EOFError, OSError):
            end = self._children[index].describe_end()
            raise PeerFailed(f"{self.name}: rank {index} {end} when asked to {what}.{self._story(index)}") from None
        if status == "failed":
            raise PeerFailed(f"{self.name}: rank {index} failed to {what}: {_last_lines(value)}")
        return value

    def _story(self, index: int) -> str:
        """Return the last that a rank printed, to follow a sentence."""
        log = Path(self._ranks[index].log)
        text = log.read_text(errors="replace").strip() if log.exists() else ""
        return f"\n  It said last: {_last_lines(text)}" if text else ""


def _last_lines(text: str) -> str:
    return "\n  ".join(text.strip().splitlines()[-_STORY_LINES:])


def _joined(parts: list[Losses]) -> Losses:
    """Join what ranks know of the losses; of a mini-batch that several know equal parts of, the mean is the loss."""
    names = {name: None for losses in parts for name in losses}
    return {
        name: [fmean(values) for values in zip(*(losses[name] for losses in parts if name in losses), strict=True)]
        for name in names
    }
