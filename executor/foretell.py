"""When prepared jobs would end, by pilots' rough seconds: for choices that come before anything is measured."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from hydrasim.cluster import Cluster, Device, Link
from hydrasim.mechanism import OURS
from hydrasim.simulator import simulate

if TYPE_CHECKING:
    from executor.prepare import Prepared

_NUM_MINIBATCHES = 4  # of each job
_POLICY = "resident-lrtf"
_DISPATCH_S = 5e-4  # an estimate, of deciding, sending and taking up a unit (results/executor)


def foretold_s(prepared: Prepared, core_bytes_per_s: float) -> float:
    """Return the seconds that a few mini-batches of each job take.

    core_bytes_per_s: what a core copies; copies at memory speed go as fast, and take it up.

    Raises:
        HydraError: the jobs do not fit.
    """
    few, mechanism = (
        prepared.limited(_NUM_MINIBATCHES),
        replace(OURS, loading_zone_fraction=prepared.loading_zone_fraction),
    )
    return simulate(few.workload, _charged(few.cluster, core_bytes_per_s), _POLICY, mechanism=mechanism).makespan_s


def _charged(cluster: Cluster, core_bytes_per_s: float) -> Cluster:
    devices = tuple(_linked(device, core_bytes_per_s) for device in cluster.devices)
    on_host = any(device.on_host for device in devices)
    core_copy = core_bytes_per_s if on_host else cluster.core_copy_bytes_per_s
    return replace(cluster, devices=devices, core_copy_bytes_per_s=core_copy, dispatch_s=_DISPATCH_S)


def _linked(device: Device, bytes_per_s: float) -> Device:
    def at_most(link: Link) -> Link:
        return replace(link, bytes_per_s=bytes_per_s) if math.isinf(link.bytes_per_s) else link

    return replace(device, h2d=at_most(device.h2d), d2h=at_most(device.d2h))
