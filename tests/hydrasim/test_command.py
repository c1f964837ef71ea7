"""Commands: their text, their lane, and the form in which two backends' lists are compared."""

from __future__ import annotations

from dataclasses import replace

from hydrasim import ShardUnit
from hydrasim.command import HOST, Command, Kind, Lane, normal_form
from hydrasim.dataflow import BlockKey

UNIT = ShardUnit.parse("A/F0#3")
STATE = BlockKey("w", "A", 0, -1)


def load(number: int, device: int = 0, after: tuple[int, ...] = (), **fields: object) -> Command:
    return Command(number, Kind.LOAD, device, Lane.H2D, UNIT, after, STATE, nbytes=64, **fields)


def compute(number: int, device: int = 0, after: tuple[int, ...] = (), **fields: object) -> Command:
    return Command(number, Kind.COMPUTE, device, Lane.COMPUTE, UNIT, after, **fields)


def test_a_command_prints_as_kind_unit_and_block():
    assert str(load(0)) == "load A/F0#3 A/w0"
    assert str(compute(0)) == "compute A/F0#3"


def test_a_lane_belongs_to_a_device_or_to_a_jobs_loader():
    assert load(0, device=1).lane_key == (1, Lane.H2D)
    assert Command(0, Kind.FETCH, HOST, Lane.HOST, UNIT).lane_key == ("A", Lane.HOST)


def test_the_normal_form_replaces_numbers_by_places_in_lanes():
    assert normal_form([load(4, offset=64), compute(9, after=(4,), places=((STATE, 64),))]) == {
        "0:h2d": ["load A/F0#3 A/w0 0+64@64 places= after="],
        "0:compute": ["compute A/F0#3 0+0@0 places=A/w0@64 after=0:h2d[0]"],
    }


def test_the_normal_form_forgets_how_lanes_interleave():
    first = [load(0), load(1, device=1), compute(2, after=(0,)), compute(3, device=1, after=(1,))]
    second = [load(0, device=1), compute(1, device=1, after=(0,)), load(2), compute(3, after=(2,))]
    assert normal_form(first) == normal_form(second)


def test_the_normal_form_tells_dependencies_addresses_and_order_apart():
    base = [load(0), compute(1, after=(0,))]
    for other in (
        [load(0), compute(1)],
        [load(0, offset=64), compute(1, after=(0,))],
        [replace(load(0), start=64), compute(1, after=(0,))],
        [load(0), compute(1, after=(0,), places=((STATE, 0),))],
        [load(0), compute(1, device=1, after=(0,))],
    ):
        assert normal_form(other) != normal_form(base)
