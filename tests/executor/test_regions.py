"""A state's newest version is where the last command puts it that counts."""

from __future__ import annotations

import pytest

from executor.regions import Regions
from hydrasim.command import Command, Kind, Lane
from hydrasim.dataflow import BlockKey
from hydrasim.workload import Shard, ShardUnit, TrainingJob

KEY = BlockKey("w", "A", 0, -1)


class Store:
    """Regions by number: 0 is the state as it begins, and 1, 2 .. are spare."""

    def __init__(self) -> None:
        self.location, self.spares = {KEY: 0}, [3, 2, 1]

    def spare(self, key: BlockKey) -> int:
        return self.spares.pop()

    def commit(self, key: BlockKey, region: int) -> None:
        self.spares.append(self.location[key])
        self.location[key] = region

    def give_back(self, key: BlockKey, region: int) -> None:
        self.spares.append(region)


def command(number: int) -> Command:
    return Command(number, Kind.STORE, 0, Lane.D2H, ShardUnit.parse("A/B0#0"), block=KEY)


@pytest.fixture
def regions() -> Regions:
    made = Regions(Store())
    made.know(TrainingJob("A", (Shard(1.0, 1.0),), 1))
    return made


def test_a_version_counts_for_what_follows_at_once_and_for_the_store_when_it_is_whole(regions):
    assert regions.newest(KEY) == 0
    assert regions.next(command(5)) == 1 == regions.newest(KEY)
    assert regions._store.location[KEY] == 0
    regions.commit(command(5))
    assert (regions._store.location[KEY], regions._store.spares) == (1, [3, 2, 0])
    regions.commit(command(6))  # made no version
    assert regions.newest(KEY) == 1


def test_what_never_comes_leaves_the_version_before_it_even_if_that_is_on_its_way(regions):
    regions.next(command(5))
    regions.next(command(7))
    regions.give_back(command(7))
    assert regions.newest(KEY) == 1
    regions.commit(command(5))
    assert regions.newest(KEY) == regions._store.location[KEY] == 1
    regions.next(command(9))
    regions.give_back(command(9))
    regions.give_back(command(9))
    assert regions.newest(KEY) == 1
    assert sorted(regions._store.spares) == [0, 2, 3]
