"""A lost device's commands never end, and what was made pointless ends untold."""

from __future__ import annotations

import pytest

from hydrasim import ShardUnit
from hydrasim.command import HOST, Command, DeviceLost, Finished, Kind, Lane
from hydrasim.errors import StallError
from hydrasim.sim_backend import SimBackend

UNIT = ShardUnit.parse("A/F0#0")


def command(number: int, device: int, *after: int, lane: Lane = Lane.COMPUTE) -> Command:
    return Command(number, Kind.COMPUTE, device, lane, UNIT, after)


def backend(*commands: Command, lost_s: float = 1.5, seconds: float = 1.0) -> SimBackend:
    made = SimBackend(lambda _: seconds, happenings=[DeviceLost(0, lost_s)])
    made.submit(list(commands))
    return made


def ended(here: SimBackend, count: int) -> list[tuple[int, float]]:
    """Return the next ends, by number and moment; a device's loss is number -1."""
    events = [here.next_event() for _ in range(count)]
    return [(e.command.number, e.end_s) if isinstance(e, Finished) else (-1, e.at_s) for e in events]


def test_commands_of_a_lost_device_never_end_and_others_that_wait_for_them_may_begin():
    here = backend(command(0, 0), command(1, 0), command(2, 0), command(3, 1, 1))
    assert ended(here, 2) == [(0, 1.0), (-1, 1.5)]
    here.withdraw(0, [])
    assert ended(here, 1) == [(3, 2.5)]
    with pytest.raises(StallError):
        here.next_event()


def test_what_is_withdrawn_never_begins_and_what_has_begun_ends_untold():
    here = backend(command(0, 0), command(1, 1), command(2, 1), command(3, 1), command(4, HOST, 2, lane=Lane.HOST))
    assert sorted(ended(here, 2)) == [(0, 1.0), (1, 1.0)]
    assert ended(here, 1) == [(-1, 1.5)]
    here.withdraw(0, [2, 3])  # 2 has begun at 1.0, 3 waits for it
    assert ended(here, 1) == [(4, 3.0)]


def test_a_device_that_is_back_begins_at_once():
    here = backend(command(0, 0), seconds=4.0)
    assert ended(here, 1) == [(-1, 1.5)]
    here.withdraw(0, [])
    here.submit([command(1, 0)])
    assert ended(here, 1) == [(1, 5.5)]
