"""Who runs when, and what becomes of those who cannot or should not take part."""

from __future__ import annotations

import pytest

from experiments.peers.race import Entry, Race, heats, joined, lineup, partners
from experiments.peers.registry import OURS
from experiments.peers.team import Limits, PeerFailed
from tests.executor.processes import gone, marked
from tests.experiments.peers.broken import HERE
from tests.experiments.peers.worlds import task


def test_ours_is_on_one_side_of_each_rival():
    assert lineup(["a", "b", "c", "d", "e"], 0) == [OURS, "a", "b", OURS, "c", "d", OURS, "e"]
    assert lineup(["a", "b"], 0) == [OURS, "a", "b", OURS]
    assert lineup(["a"], 3) == [OURS, "a"]
    assert lineup([], 3) == [OURS]


def test_heats_of_some_rivals_at_a_time_are_told_as_one_race():
    assert heats(["a", "b", "c", "d", "e"], 2) == [["a", "b"], ["c", "d"], ["e"]]
    assert heats(["a", "b"], None) == [["a", "b"]]
    assert heats([], None) == heats([], 3) == [[]]
    first = {OURS: Entry(OURS, seconds=[1.0], core_s=[{"units": 1.0}]), "a": Entry("a", seconds=[2.0])}
    second = {OURS: Entry(OURS, seconds=[1.5], core_s=[{"units": 1.2}]), "b": Entry("b", dropped="no")}
    found = joined(joined({}, first), second)
    assert list(found) == [OURS, "a", "b"]
    assert found[OURS].seconds == [1.0, 1.5]
    assert found[OURS].core_s == [{"units": 1.0}, {"units": 1.2}]
    assert (found["a"].seconds, found["b"].dropped) == ([2.0], "no")


def test_the_next_round_begins_with_the_next_rival():
    assert lineup(["a", "b", "c"], 1) == [OURS, "b", "c", OURS, "a"]
    assert lineup(["a", "b", "c"], 3) == lineup(["a", "b", "c"], 0)


def test_partners_are_neighbours():
    #       0     1    2    3     4    5    6     7
    line = [OURS, "a", "b", OURS, "c", "d", OURS, "e"]
    assert partners(line) == {1: 0, 2: 3, 4: 3, 5: 6, 7: 6}


def test_a_race_pairs_runs_and_drops_who_trains_something_else_or_dies(monkeypatch):
    said: list[str] = []
    ours, ideal, wrong, failing, later = (
        f"{HERE}:{name}" for name in ("StandIn", "Ideal", "Wrong", "Failing", "DyingLater")
    )
    monkeypatch.setattr("experiments.peers.race.OURS", ours)
    with marked() as mark:
        with Race(task(), [ideal, wrong, failing, later], limits=Limits(), say=said.append) as race:
            race.check()
            assert race.running == [ideal, later]
            race.run_round(0)  # ours, ideal, dying later, ours
            race.run_round(1)  # ours, ideal
        assert gone(mark)
    found = race.entries
    assert (found[ours].loss_difference, found[ideal].loss_difference) == (0.0, 0.0)
    assert found[ideal].pairs == [
        (found[ours].seconds[0], found[ideal].seconds[0]),
        (found[ours].seconds[2], found[ideal].seconds[1]),
    ]
    assert "trains something else" in found[wrong].dropped
    assert "ValueError: no such thing" in found[failing].dropped
    assert "in round 0" in found[later].dropped
    assert "exited with code 4" in found[later].dropped
    assert found[later].pairs == []
    assert any(text.startswith(f"round 1: {ideal}") for text in said)
    assert found[ours].memory_bytes == 1000


def test_a_race_without_ours_is_none(monkeypatch):
    monkeypatch.setattr("experiments.peers.race.OURS", f"{HERE}:Failing")
    monkeypatch.setattr(Race, "_reference", lambda race: {})
    with (
        Race(task(), [], limits=Limits(), say=lambda _: None) as race,
        pytest.raises(PeerFailed, match="no such thing"),
    ):
        race.check()


def test_who_lacks_a_package_is_told_so(monkeypatch):
    monkeypatch.setattr("experiments.peers.race.missing_packages", lambda name: ["deepspeed"])
    race = Race(task(), [], limits=Limits(), say=lambda _: None)
    with pytest.raises(PeerFailed, match=r"needs deepspeed, not installed here; pip install 'hydrasim\[rivals\]'"):
        race._admit(Entry("zero3-offload"), {})


def test_the_fastest_variant_is_chosen_of_those_that_may_be():
    race = Race(task(), ["gpipe"], limits=Limits(), say=lambda _: None)
    race.entries[OURS].memory_bytes = 100
    variants = [{"microbatches": count} for count in (2, 4, 8)]
    trial = [
        {"options": options, "seconds": seconds, "memory_bytes": nbytes}
        for options, seconds, nbytes in zip(variants, (1.0, 2.0, 3.0), (120, 100, 80), strict=True)
    ]
    entry = Entry("gpipe", trial=trial)
    assert race._chosen(entry, variants, within_budget=False) == {"microbatches": 2}
    assert race._chosen(entry, variants, within_budget=True) == {"microbatches": 4}
    race.entries[OURS].memory_bytes = 50
    assert race._chosen(entry, variants, within_budget=True) == {"microbatches": 8}  # the leanest
    assert race._chosen(Entry("ddp"), [{}], within_budget=False) == {}
