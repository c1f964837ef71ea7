"""The machine's switches, and the presets that bundle them."""

from __future__ import annotations

import pytest

from hydrasim import HYDRA_RELEASED, OURS, PAPER, HydraError, Mechanism
from hydrasim.mechanism import MECHANISMS


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_the_loading_zone_is_a_share_of_the_arena(fraction: float):
    with pytest.raises(HydraError, match="loading_zone_fraction is .*; it must be at least 0 and below 1"):
        Mechanism(loading_zone_fraction=fraction)


def test_the_presets_by_name():
    assert MECHANISMS == {"ours": OURS, "paper": PAPER, "hydra-released": HYDRA_RELEASED}


def test_the_presets_state_what_the_paper_and_the_code_state():
    assert (PAPER.loading_zone_fraction, PAPER.keep) == (0.05, "none")
    assert (HYDRA_RELEASED.loading_zone_fraction, HYDRA_RELEASED.synchronous_copies) == (0.15, True)
    assert OURS.loading_zone_fraction is None
