"""One rank's process: builds jobs and trains them as the race asks over its connection, until that ends.

race --Enter--> rank          who it is
     --("begin", options)-->         <-- ("done", None)
     --("run", minibatches)-->       <-- ("done", Run)
     --("memory",) or ("facts",)-->  <-- ("done", what it is)
                                     <-- ("failed", story), to any of them
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from executor.process import die_with_parent, ending_with_parent
from experiments.peers.contender import Contender, Rank, Task
from experiments.peers.registry import find_contender


@dataclass(frozen=True)
class Enter:
    """Who a process is: the rank of a contender on a task. log: the file that gets what it prints."""

    contender: str
    task: Task
    rank: Rank
    log: str


def answer(contender: Contender, request: tuple[Any, ...]) -> Any:
    """Do what the race asks."""
    what, *details = request
    if what == "begin":
        return contender.begin(*details)
    if what == "run":
        return contender.run(*details)
    return contender.memory_bytes() if what == "memory" else contender.facts()


def main() -> None:
    """Serve until the race hangs up; it ends this process in the middle of anything."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the race gets it, and ends its processes in order
    die_with_parent()
    own = socket.socket(fileno=int(sys.argv[1]))
    connection = Connection(os.dup(own.fileno()))
    torch.set_num_threads(1)
    entered: Enter = connection.recv()
    log = os.open(entered.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    contender: Contender | None = None
    while True:
        request = connection.recv()
        try:
            if contender is None:
                contender = find_contender(entered.contender)(entered.task, entered.rank)
            connection.send(("done", answer(contender, request)))
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception:
            connection.send(("failed", traceback.format_exc()))


if __name__ == "__main__":
    with ending_with_parent():
        main()
