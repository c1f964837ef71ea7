"""What the operating system says about processes that a test started."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATIENCE_S = 20.0  # only a net: a killed process is gone within milliseconds


@contextmanager
def marked() -> Iterator[str]:
    """Mark the environment, so that every process started meanwhile, and its children, can be found."""
    mark = uuid.uuid4().hex
    os.environ["HYDRASIM_TEST_MARK"] = mark
    try:
        yield mark
    finally:
        del os.environ["HYDRASIM_TEST_MARK"]


def alive(mark: str) -> list[int]:
    """Return the marked processes that still run; zombies have no environment any more."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def gone(mark: str) -> bool:
    """Wait for all marked processes to end; tell whether they did."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while alive(mark) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return not alive(mark)


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def wait_dead(pid: int) -> None:
    """Wait for a child to end without reaping it."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
