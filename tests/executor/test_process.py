"""Child processes: one connection each, and an end of which something can be said."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from executor.process import Child, receive_fd
from tests.executor.processes import gone, marked, open_fds, wait_dead


@pytest.fixture
def child():
    made = Child("executor.worker")
    yield made
    made.kill()


def test_a_child_ends_when_its_connection_does():
    before = open_fds()
    with marked() as mark:
        child = Child("executor.worker")
        child.connection.close()
        child.socket.close()
        assert gone(mark)
    assert child.process.wait(timeout=20) == 0
    child.kill()
    assert open_fds() == before


def test_how_a_child_ended_is_told(child):
    assert not child.has_ended
    os.kill(child.pid, signal.SIGKILL)
    wait_dead(child.pid)
    assert child.has_ended
    assert child.describe_end() == "was killed by SIGKILL"
    assert child.has_ended


def test_an_exit_code_is_told():
    child = Child("executor.no_such_module")
    assert child.describe_end() == "exited with code 1"
    child.kill()


def test_killing_twice_is_harmless(child):
    child.kill()
    child.kill()
    assert child.has_ended


def test_a_child_has_a_session_of_its_own(child):
    assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_a_parent_that_ends_before_it_passes_a_descriptor_is_no_index_error():
    own, other = socket.socketpair()
    other.close()
    with own, pytest.raises(EOFError):
        receive_fd(own)


@pytest.mark.parametrize("error", ["EOFError", "BrokenPipeError", "ConnectionResetError"])
def test_a_child_whose_parent_ends_in_the_middle_of_a_talk_leaves_without_a_word(error):
    program = f"from executor.process import ending_with_parent\nwith ending_with_parent():\n  raise {error}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_child_has_what_deterministic_cublas_needs_before_cuda_starts(child):
    while not (environment := Path(f"/proc/{child.pid}/environ").read_bytes()):
        time.sleep(0.01)  # it has not begun yet
    wanted = os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert f"CUBLAS_WORKSPACE_CONFIG={wanted}".encode() in environment.split(b"\0")
