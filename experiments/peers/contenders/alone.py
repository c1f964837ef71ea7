"""One device instead of two: ours and the ideal, to see how both scale."""

from __future__ import annotations

from experiments.peers.contenders.ideal import Ideal
from experiments.peers.contenders.ours import Ours


class OursAlone(Ours):
    """Ours on a single device of the same memory."""

    registered_name = "ours-alone"
    num_devices = 1


class IdealAlone(Ideal):
    """All models whole in memory, trained one after another in a single process."""

    registered_name = "ideal-alone"
    num_ranks = 1
