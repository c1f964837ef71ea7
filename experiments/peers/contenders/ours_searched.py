"""Ours, in cuts that were searched for instead of the greedy partitioner's."""

from __future__ import annotations

from experiments.peers.contenders.alone import OursAlone
from experiments.peers.contenders.ours import Ours


class OursSearched(Ours):
    """Ours in the cuts that are foretold to end soonest; the arena is the same, the activation peak theirs."""

    registered_name = "ours-searched"
    partitioner = "search"


class OursSearchedAlone(OursAlone):
    """The same on a single device."""

    registered_name = "ours-searched-alone"
    partitioner = "search"
