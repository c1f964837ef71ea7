"""Each rung changes what its name says, and the ends of the ladder are the named mechanisms."""

from __future__ import annotations

from dataclasses import asdict

from experiments.figures import mechanisms
from experiments.figures.mechanisms import RUNGS
from experiments.paper.runs import STEADY_MINIBATCHES, Outcome
from hydrasim.mechanism import MECHANISMS
from hydrasim.systems.quoted import PAPER_FIG8


def changed(lower: int, upper: int) -> set[str]:
    below, above = asdict(RUNGS[lower].mechanism), asdict(RUNGS[upper].mechanism)
    return {name for name in below if below[name] != above[name]}


def test_the_first_rungs_differ_by_one_switch_each():
    assert [changed(rung, rung + 1) for rung in range(3)] == [{"pinned"}, {"synchronous_copies"}, {"store_clean"}]
    assert changed(3, 4) == {"partial_prefetch", "keep", "cap_devices"}
    assert changed(4, 5) == {"loading_zone_fraction"}
    assert changed(5, 6) == {"keep", "write_back"}
    assert changed(6, 7) == {"loading_zone_fraction"}
    assert changed(7, 8) == set()


def test_the_named_mechanisms_are_rungs():
    found = {rung.mechanism: rung for rung in reversed(RUNGS)}
    assert found[MECHANISMS["hydra-released"]].policy == "hydra-released"
    assert found[MECHANISMS["paper"]].quoted
    assert MECHANISMS["ours"] in found


def test_the_smoke_run_shows_both_ends_and_can_be_drawn():
    frame = mechanisms.run(True)
    assert not frame.duplicated(list(mechanisms.ABOUT.keys)).any()
    released, ours = (frame[frame["rung"] == rung.name].set_index("costs")["ratio"] for rung in (RUNGS[0], RUNGS[-1]))
    assert (ours > released).all()
    assert (frame["compute_fraction"] == frame["costs"].map({"zero-constant": 0.88})).sum() == 2
    axes = mechanisms.draw(frame).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["hydra-released", "ours, resident-lrtf"]


def test_rungs_of_ours_are_simulated_in_full_and_nothing_runs_twice(monkeypatch):
    lengths = {}

    def run_all(runs, each):
        for run, length in zip(runs, each, strict=True):
            assert lengths.setdefault(run, length) is length
        return [Outcome(3600.0, 0.5)] * len(runs)

    monkeypatch.setattr(mechanisms, "run_all", run_all)
    frame = mechanisms.run(num_minibatches=2 * STEADY_MINIBATCHES)
    assert len(lengths) == len(frame) + len(mechanisms.COSTS)
    in_full = {run.world.mechanism for run, length in lengths.items() if length == 0}
    assert in_full == {MECHANISMS["ours"]}
    assert set(lengths.values()) == {0, 4 * STEADY_MINIBATCHES}


def test_the_quoted_speedup_is_that_of_fig_8():
    quote = next(quote for quote in PAPER_FIG8 if (quote.task, quote.system) == ("wikitext-2", "Hydra"))
    assert (quote.speedup, quote.utilization_fraction) == (mechanisms.PAPER_SPEEDUP, mechanisms.PAPER_UTILIZATION)
