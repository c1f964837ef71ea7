"""Ours, with optimizers that step in host memory."""

from __future__ import annotations

from experiments.peers.contenders.ours import Ours


class OursHostUpdates(Ours):
    """Ours, whose devices hold parameters only; on one machine's cores the updates take theirs from the devices."""

    registered_name = "ours-host-updates"
    update_on = "host"
