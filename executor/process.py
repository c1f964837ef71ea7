"""Starts child processes that die with their parent, and passes them descriptors."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from executor.messages import Broken
from hydrasim.errors import told

_PR_SET_PDEATHSIG = 1
# One heap that is not given back between units: page faults would make equal units take unequal times.
_STEADY_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that glibc takes
}
# What deterministic cuBLAS needs to find before CUDA starts; see executor/devices/cuda.py.
CUBLAS_WORKSPACE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
_ROOT = Path(__file__).resolve().parent.parent


class Child:
    """A `python -m module` process with one private connection; it ends when the connection does."""

    def __init__(self, module: str, num_threads: int = 1) -> None:
        self.socket, other = socket.socketpair()
        os.set_inheritable(other.fileno(), True)
        threads = {name: str(num_threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        path = os.pathsep.join([str(_ROOT), *(entry or os.getcwd() for entry in sys.path)])
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, str(other.fileno())],
            env={**_STEADY_MALLOC, **CUBLAS_WORKSPACE, **os.environ, **threads, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            pass_fds=(other.fileno(),),
            start_new_session=True,  # Ctrl-C is for the parent, which ends the run in order
        )
        other.close()
        self.connection = Connection(os.dup(self.socket.fileno()))

    @property
    def pid(self) -> int:
        return self.process.pid

    def send_fd(self, fd: int) -> None:
        socket.send_fds(self.socket, [b"!"], [fd])

    def describe_end(self) -> str:
        """Say how the process ended."""
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"

    @property
    def has_ended(self) -> bool:
        """Whether the process is over; it stays a zombie, so that its id, and its group's, is nobody else's."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> None:
        """End the process and everything in its session; who waits for it learns that."""
        if self.process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the process and everything in its session, at once."""
        if self.process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
        self.connection.close()
        self.socket.close()


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started and that are left, by their numbers."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return sorted(map(int, file.read().split()))


def receive_fd(source: socket.socket) -> int:
    """Receive one descriptor.

    Raises:
        EOFError: the other side is gone.
    """
    _, fds, _, _ = socket.recv_fds(source, 1, 1)
    if not fds:
        raise EOFError
    return fds[0]


class Served(Protocol):
    """A run in a process of its own."""

    def handle(self, message: Any) -> None:
        """Do what the parent asks."""

    def close(self) -> object:
        """End what it does; return what the parent is to know of it."""


def serve(begin: Callable[[Any, Connection, Callable[[], int]], Served]) -> None:
    """Serve the parent's runs, one after another, until it hangs up: a setup, what is to be done, and "close".

    begin: makes a run of a setup, given the connection to report on and what receives a descriptor that follows the
    setup; descriptors are closed with the run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own = socket.socket(fileno=int(sys.argv[1]))
    connection = Connection(os.dup(own.fileno()))
    run: Served | None = None
    fds: list[int] = []

    def received() -> int:
        fds.append(receive_fd(own))
        return fds[-1]

    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # threads may be in the middle of something; nobody waits for it
        if message == "close":
            answer = None if run is None else run.close()
            run = None  # with what it holds, before the next run reserves its own
            while fds:
                os.close(fds.pop())
            connection.send(answer)
        elif run is None:
            try:
                run = begin(message, connection, received)
                connection.send("ready")
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                connection.send(Broken(-1, "setup", told(error)))
        else:
            run.handle(message)


@contextmanager
def ending_with_parent() -> Iterator[None]:
    """Leave without a word when the parent ended in the middle of a talk: nobody is left to work for."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)


def send_or_leave(connection: Connection, message: object) -> None:
    """Send to the parent; when it is gone, nobody is left to work for."""
    try:
        connection.send(message)
    except (BrokenPipeError, OSError):
        os._exit(1)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends, even if this one is busy."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
