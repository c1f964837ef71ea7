"""A world for systems that gather layers from host memory, and what a mini-batch takes there, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hydrasim import Cluster, Device, Link, Shard, Timeline, TrainingJob
from hydrasim.cluster import Bus
from hydrasim.timeline import Span
from tests.worlds import spans

LAYERS = (256, 768, 512, 1024)  # bytes of parameters, unequal
FORWARDS = (8.0, 2.0, 16.0, 4.0)
BACKWARDS = (32.0, 4.0, 8.0, 16.0)
LOAD, STORE, PEER, HOST = 4.0, 8.0, 16.0, 64.0  # bytes a second


def unequal(compute: float = 1.0, minibatches: int = 1, **fields: int) -> TrainingJob:
    """Return a job of four unequal layers; compute: how many times longer it computes."""
    shards = tuple(
        Shard(f * compute, b * compute, parameter_bytes=p, optimizer_bytes=2 * p, output_bytes=64, working_bytes=128)
        for p, f, b in zip(LAYERS, FORWARDS, BACKWARDS, strict=True)
    )
    return TrainingJob("A", shards, minibatches, fused=False, **fields)


def equal_devices(count: int, *, bus: bool = False, memory_bytes: int = 1 << 20, host: int | None = None) -> Cluster:
    """Return devices with peer links; bus: all their links to the host run over one that is as fast as one link."""
    shared = "pcie" if bus else ""
    device = Device(memory_bytes, h2d=Link(LOAD, shared=shared), d2h=Link(STORE, shared=shared), peer=Link(PEER))
    buses = (Bus("pcie", LOAD),) if bus else ()
    return Cluster((device,) * count, buses=buses, host_memory_bytes=host, host_bytes_per_s=HOST)


def minibatch_s(
    gathers: Sequence[tuple[int, int]], count: int, *, compute: float = 1.0, recompute: bool = True, bus: bool = False,
    offload: bool = True,
) -> float:  # fmt: skip
    """Return the seconds of a mini-batch by recurrence over uses: load, gather, compute, scatter, store, update.

    gathers: the uses that are gathered for, and the use that each must wait for the end of the one before.
    offload: whether pieces lie in host memory; otherwise nothing is loaded or stored, and the update has no time of
    its own.
    """
    sharing = count if bus else 1
    load, store = (LOAD / sharing, (LOAD if bus else STORE) / sharing) if offload else (math.inf, math.inf)
    num_layers = len(LAYERS)
    h2d = peer = d2h = now = 0.0

    def exchanged(ready: float, layer: int) -> float:
        """One queue: a gather that waits for its loads holds up the scatter behind it."""
        nonlocal peer
        if count == 1:
            return ready
        peer = max(peer, ready) + LAYERS[layer] * (count - 1) / count / PEER
        return peer

    ended = {-1: 0.0}
    complete: dict[int, float] = {}
    stored: list[float] = []
    for use in range(2 * num_layers):
        for wanted, waits in gathers:
            if waits == use:
                layer = min(wanted, 2 * num_layers - 1 - wanted)
                h2d = max(h2d, ended[use - 1]) + LAYERS[layer] / count / load
                complete[layer] = exchanged(h2d, layer)
        layer, forward = min(use, 2 * num_layers - 1 - use), use < num_layers
        seconds = FORWARDS[layer] if forward else BACKWARDS[layer] + (FORWARDS[layer] if recompute else 0.0)
        room = stored[-2] if len(stored) > 1 else 0.0
        now = ended[use] = max(now, complete[layer], room) + seconds * compute / count
        if not forward:
            d2h = max(d2h, exchanged(now, layer)) + LAYERS[layer] / count / store
            stored.append(d2h)
    update_bytes = 7 * sum(LAYERS)  # 2 x parameters, gradients, 2 x (twice the parameters): read and written
    return d2h + (update_bytes / HOST if offload else 0.0)


def present_bytes(timeline: Timeline, device: int) -> int:
    """Return the most bytes of layers on a device at once: each from its load's start to the end of its last use."""
    edges: list[tuple[float, int]] = []
    computes = spans(timeline, "compute", device=device)
    loads = spans(timeline, "load", device=device)
    for load in loads:
        again = [later.start_s for later in loads if _layer(later) == _layer(load) and later.number > load.number]
        used = [c.end_s for c in computes if _layer(c) == _layer(load) and c.end_s <= min(again, default=c.end_s)]
        nbytes = LAYERS[_layer(load)]
        edges += [(load.start_s, nbytes), (max(used), -nbytes)]
    here = most = 0
    for _, nbytes in sorted(edges):
        here += nbytes
        most = max(most, here)
    return most


def _layer(span: Span) -> int:
    return int(span.unit.partition("/")[2].partition("#")[0][1:])
