"""Quotes are labelled so, and stand beside what is simulated."""

from __future__ import annotations

import pytest

from hydrasim.errors import SystemRefused
from hydrasim.systems import make_system, systems
from hydrasim.systems.quoted import PAPER_FIG8, SHARP, quoted_only


def test_every_bar_is_labelled_and_sourced():
    assert len(PAPER_FIG8) == 7 * 2
    assert {quote.label for quote in PAPER_FIG8} == {"quoted"}
    assert all(quote.source.startswith("Hydra, Fig. 8") for quote in PAPER_FIG8)


def test_speedups_follow_from_the_hours():
    base_s = {quote.task: quote.makespan_s for quote in PAPER_FIG8 if quote.system == "PyTorch Distributed"}
    for quote in PAPER_FIG8:
        assert base_s[quote.task] / quote.makespan_s == pytest.approx(quote.speedup, rel=0.025)


def test_a_bar_is_of_a_system_that_is_simulated_or_says_that_it_is_not():
    assert {quote.simulated_as for quote in PAPER_FIG8} <= {*systems(), SHARP, ""}
    assert quoted_only() == ("FlexFlow",)
    with pytest.raises(SystemRefused, match="FlexFlow is not simulated; there is only what papers quote of it"):
        make_system("flexflow")
