"""Real processes: every torch contender trains what the reference trains, and nothing outlives a failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from experiments.peers.losses import TOLERANCE, largest_difference
from experiments.peers.registry import find_contender
from experiments.peers.team import Limits, PeerFailed, Team
from tests.executor.processes import alive, gone, marked
from tests.experiments.peers.broken import HERE
from tests.experiments.peers.worlds import CHECKED, TINY, task

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def reference():
    """The reference's losses of the mini-batches that are checked, and of a run after them."""
    with Team("ideal", task(), num_ranks=1) as team:
        team.begin({})
        return team.run(CHECKED).losses, team.run(TINY.minibatches).losses


@pytest.mark.parametrize("name", ["ours", "ideal", "gpipe", "gpipe-equal-memory", "1f1b", "ddp", "fsdp2-offload"])
def test_a_contender_trains_what_the_reference_trains(name, reference):
    contender = find_contender(name)
    with marked() as mark:
        with Team(name, task()) as team:
            assert team.pids == []
            team.begin(contender.offers("adamw")[0])
            assert len(team.pids) == contender.num_ranks
            checked, further = team.run(CHECKED), team.run(TINY.minibatches)
            nbytes, facts = team.memory_bytes(), team.facts()
        assert gone(mark)
    for run, wanted in zip((checked, further), reference, strict=True):
        assert largest_difference(run.losses, wanted) <= (0.0 if contender.exact else TOLERANCE)
        assert run.end_s > run.begin_s
    assert nbytes is None or nbytes > 0
    if name == "ours":
        assert facts["device_memory_bytes"] == nbytes
        assert nbytes - facts["activation_peak_bytes"] == TINY.state_bytes("adamw") // 2


def test_beginning_again_begins_from_the_first_weights():
    with Team("ideal", task("sgd")) as team:
        team.begin({})
        first = team.run(CHECKED).losses
        team.begin({})
        assert team.run(CHECKED).losses == first


@pytest.mark.parametrize(
    ("name", "story"),
    [
        ("Hanging", r"rank 0 did not run within 1 s, and was killed\.\n  It said last: about to sleep"),
        ("HalfHanging", r"rank 0 did not run within 1 s, and was killed"),
        ("Failing", r"rank \d failed to begin: (.|\n)*ValueError: no such thing"),
        ("Dying", r"rank \d exited with code 3 when asked to run\.\n  It said last: a last word"),
    ],
)
def test_a_contender_that_goes_wrong_is_told_of_and_leaves_no_process(name, story):
    with marked() as mark:
        team = Team(f"{HERE}:{name}", task(), limits=Limits(run_s=1.0))
        with pytest.raises(PeerFailed, match=story):  # noqa: PT012
            team.begin({})
            team.run(CHECKED)
        assert gone(mark)  # though nobody has closed it
        team.close()


def test_one_that_ended_between_two_requests_is_told_of():
    with Team("ideal", task(), num_ranks=1) as team:
        team.begin({})
        os.kill(team.pids[0], signal.SIGKILL)
        with pytest.raises(PeerFailed, match="ideal: .*SIGKILL|ideal: a process ended before"):
            team.run(CHECKED)


SCRIPT = f"""
    import signal
    from experiments.peers.team import Team
    from tests.experiments.peers.worlds import CHECKED, task

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Team("{HERE}:HalfHanging", task()) as team:
        team.begin({{}})
        print("running", flush=True)
        team.run(CHECKED)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_race_that_is_stopped_leaves_no_process(number):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    pipe = subprocess.PIPE
    with marked() as mark, subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as script:
        try:
            assert script.stdout.readline() == "running\n"
            assert len(alive(mark)) == 3
            script.send_signal(number)
            script.communicate(timeout=60)
            assert gone(mark)
        finally:
            script.kill()
