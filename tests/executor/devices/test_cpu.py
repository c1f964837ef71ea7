"""Emulated devices: a budget, and a link whose time is booked and not merely slept."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from executor import CpuDevice
from executor.devices.cpu import LinkClock
from executor.errors import DeviceError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "memory_bytes is 0"),
        ((1, 0.0), "link_bytes_per_s is 0.0"),
        ((1, float("nan")), "link_bytes_per_s is nan"),
    ],
)
def test_impossible_devices_are_refused(arguments, message):
    with pytest.raises(DeviceError, match=message):
        CpuDevice(*arguments)


def test_a_device_describes_itself_to_the_simulator():
    described = CpuDevice(1000, link_bytes_per_s=500.0).describe()
    assert (described.memory_bytes, described.h2d.copy_s(1000), described.kind) == (1000, 2.0, "cpu, link 500 B/s")
    assert CpuDevice(1000).describe().h2d.copy_s(1000) == 0.0


@pytest.fixture
def link():
    fd = LinkClock.create()
    yield fd
    os.close(fd)


def test_copies_follow_one_another_at_the_links_speed(link):
    clock = LinkClock(link, 2.0**20)
    first = clock.reserve(1 << 40, "h2d")
    assert clock.reserve(1 << 20, "h2d") == first + 1.0
    assert clock.reserve(1 << 19, "h2d") == first + 1.5


def test_devices_on_one_bus_share_its_speed(link):
    a, b = LinkClock(link, 2.0**20), LinkClock(os.dup(link), 2.0**20)
    first = a.reserve(1 << 40, "h2d")
    assert b.reserve(1 << 20, "h2d") == first + 1.0
    assert a.reserve(1 << 20, "h2d") == first + 2.0
    os.close(b._fd)


def test_directions_do_not_wait_for_each_other(link):
    clock = LinkClock(link, 2.0**20)
    there = clock.reserve(1 << 40, "h2d")
    assert clock.reserve(1 << 20, "d2h") < there


BOOK = """
    import sys
    from executor.devices.cpu import LinkClock
    clock = LinkClock(int(sys.argv[1]), 2.0**30)
    clock.reserve(1 << 50, "h2d")
    print(*[repr(clock.reserve(1 << 20, "h2d")) for _ in range(200)])
"""


def test_processes_never_book_the_same_time(link):
    started = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(BOOK), str(link)], cwd=ROOT, pass_fds=(link,),
                         stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]  # fmt: skip
    ends = sorted(float(word) for process in started for word in process.communicate()[0].split())
    assert len(ends) == 400
    # Half a slot is far above what adding floats of this size can lose.
    assert all(later - earlier > 0.5 / 1024 for earlier, later in zip(ends, ends[1:], strict=False))


def test_a_copy_takes_its_reserved_time_chunk_by_chunk(link):
    memory = CpuDevice(1 << 24, link_bytes_per_s=2.0**30).open(9 << 20, 1 << 20, link)
    source = torch.arange(9 << 20, dtype=torch.int64).to(torch.uint8)
    booked = []
    reserve = memory._clock.reserve
    memory._clock.reserve = lambda nbytes, direction: (
        booked.append((nbytes, reserve(nbytes, direction))) or booked[-1][1]
    )
    memory.copy(memory.arena, source, "h2d")
    assert torch.equal(memory.arena, source)
    assert [nbytes for nbytes, _ in booked] == [4 << 20, 4 << 20, 1 << 20]
    assert all(
        later >= earlier + nbytes / 2.0**30 for (_, earlier), (nbytes, later) in zip(booked, booked[1:], strict=False)
    )


def test_without_a_speed_copies_need_no_clock():
    memory = CpuDevice(1 << 20).open(64, 1 << 10, None)
    memory.copy(memory.arena, torch.full((64,), 5, dtype=torch.uint8), "h2d")
    assert memory.arena.unique().tolist() == [5]


def test_the_arena_is_outside_the_budget():
    memory = CpuDevice(1 << 20).open(1 << 16, 1 << 10, None)
    with memory.computing():
        assert memory.arena[:512].clone().sum() == 0
    assert memory.tracker.peak_bytes < 1 << 10
