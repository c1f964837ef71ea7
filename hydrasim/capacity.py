"""What the devices offer: room for blocks beside the activations, a loading zone in it, and whether all units fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrasim.dataflow import ALIGNMENT, aligned, neediest_unit, unit_bytes
from hydrasim.errors import ShardTooLarge

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.mechanism import Mechanism
    from hydrasim.workload import TrainingJob, Workload


def arena_bytes(workload: Workload, cluster: Cluster) -> list[int]:
    """Return per device what is left for blocks next to the workload's activation peak."""
    working = aligned(workload.working_bytes)
    return [max(0, device.memory_bytes - working) // ALIGNMENT * ALIGNMENT for device in cluster.devices]


def zone_bytes(capacity: int, mechanism: Mechanism) -> int | None:
    """Return the part of an arena that is kept for prefetched bytes, None for whatever happens to be free."""
    fraction = mechanism.loading_zone_fraction
    return None if fraction is None else int(capacity * fraction) // ALIGNMENT * ALIGNMENT


def check_fits(workload: Workload, cluster: Cluster, mechanism: Mechanism, *, added: TrainingJob | None = None) -> None:
    """Make sure that every unit fits every device, next to whichever unit is the greediest.

    added: a job to look at in place of the workload's, which have set apart what its activations may take.

    Raises:
        ShardTooLarge: one does not.
    """
    for index, arena in enumerate(arena_bytes(workload, cluster)):
        zone = zone_bytes(arena, mechanism) or 0
        for job in workload.jobs if added is None else (added,):
            for shard in range(len(job.shards)):
                need = unit_bytes(job, neediest_unit(job, shard))
                if need > arena - zone:
                    raise ShardTooLarge(
                        f"shard {shard} of {job.name!r} needs {need:,} bytes for state, inputs and outputs; "
                        f"device {index} has {arena - zone:,} left of {cluster.devices[index].memory_bytes:,} "
                        f"(activation peak {workload.working_bytes:,}, loading zone {zone:,}).\n"
                        "  Cut the model into more shards, lower loading_zone_fraction, or give more memory."
                    )
