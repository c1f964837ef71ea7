"""The switches of the machine under the policy: prefetch, loading zone, eviction, write-back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hydrasim.errors import HydraError

Keep = Literal["all", "none", "released"]
Effects = Literal["theory", "transfers", "contention", "overheads", "noise"]
EFFECTS: tuple[Effects, ...] = get_args(Effects)
DEFAULT_EFFECTS: Effects = "overheads"  # the highest rung without chance


def includes(effects: Effects, effect: Effects) -> bool:
    """Tell whether a rung of the ladder has an effect; each has all that those before it have."""
    return EFFECTS.index(effects) >= EFFECTS.index(effect)


@dataclass(frozen=True)
class Mechanism:
    """How data moves, whatever the policy.

    prefetch: choose a device's next unit while one computes, and load it meanwhile (double buffering).
    loading_zone_fraction: share of the arena kept for prefetched bytes; None lets prefetch use whatever
        memory the running unit leaves.
    partial_prefetch: load the part that fits ahead of time and the rest when the unit's turn comes;
        otherwise a unit that does not fit whole is not prefetched at all.
    keep: "all" leaves blocks on the device until room is needed; "none" demotes everything after its
        unit; "released" keeps only shard 0, and only while its job is bound to a device.
    write_back: "lazy" stores updated state when it is evicted or needed elsewhere, "through" at once;
        "auto" is lazy for jobs whose whole state fits the device, since for others an eviction would
        put the store on the critical path of the load that follows it.
    store_clean: demoting copies unchanged state back too.
    skip_spill: a boundary tensor stays on the device for a next unit there (it is stored all the same).
    synchronous_copies: copies occupy the compute lane, as unpinned ones do.
    cap_devices: use at most as many devices as there are jobs.
    eviction: who makes room: the block whose next use is farthest, as far as a plan tells, else the least
        recently used one; or always the latter.
    pinned: host memory is page-locked, so that copies run at their links' full bandwidth.
    recoverable: a unit on another device than its job's last one begins when all that that changed is stored, so that
        a lost device costs units, and no job its progress.
    checkpoint_every: a job's state is saved after so many mini-batches that are trained on, and after its last one;
        None for never.
    """

    prefetch: bool = True
    loading_zone_fraction: float | None = None
    partial_prefetch: bool = True
    keep: Keep = "all"
    write_back: Literal["auto", "lazy", "through"] = "auto"
    store_clean: bool = False
    skip_spill: bool = True
    synchronous_copies: bool = False
    cap_devices: bool = False
    eviction: Literal["next-use", "lru"] = "next-use"
    pinned: bool = True
    recoverable: bool = False
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        zone = self.loading_zone_fraction
        if zone is not None and not 0 <= zone < 1:
            raise HydraError(f"loading_zone_fraction is {zone}; it must be at least 0 and below 1.")
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise HydraError(f"checkpoint_every is {self.checkpoint_every}; it must be at least 1.")


OURS = Mechanism()
# HYDRA_RELEASED is what knagrecha/hydra at 45184df does with data; the policy of that name is how it chooses. Not
# here, since they are costs and not rules: fp16 autocast, and one Python process whose threads share an interpreter.
# It stages unpinned copies on the stream that computes, copies unchanged parameters back, and keeps shard 0 alone.
PAPER = Mechanism(loading_zone_fraction=0.05, keep="none", write_back="through")
HYDRA_RELEASED = Mechanism(
    loading_zone_fraction=0.15,
    partial_prefetch=False,
    keep="released",
    write_back="through",
    store_clean=True,
    synchronous_copies=True,
    cap_devices=True,
    pinned=False,
)
MECHANISMS = {"ours": OURS, "paper": PAPER, "hydra-released": HYDRA_RELEASED}
