"""Where training runs: devices, their memory, and the links that join them to host memory."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property

from hydrasim.errors import ClusterError

GIB = 1 << 30


@dataclass(frozen=True)
class Link:
    """One direction between host memory and a device; a copy takes latency + bytes / bandwidth."""

    bytes_per_s: float = math.inf
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0:
            raise ClusterError(f"link: bytes_per_s is {self.bytes_per_s}; it must be above 0.")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise ClusterError(f"link: latency_s is {self.latency_s}; it must be finite and not negative.")

    def copy_s(self, nbytes: int) -> float:
        """Return the seconds that a copy of that many bytes takes when alone on the link."""
        return self.latency_s + nbytes / self.bytes_per_s


@dataclass(frozen=True)
class Device:
    """One accelerator.

    speed: divides the seconds of a reference device of speed 1. root_complex: devices that name the same
    one share the bandwidth of their links. on_host: it is emulated, and computes on the host's cores.
    """

    memory_bytes: int
    speed: float = 1.0
    h2d: Link = field(default_factory=Link)
    d2h: Link = field(default_factory=Link)
    kind: str = "simulated"
    root_complex: str = ""
    on_host: bool = False

    def __post_init__(self) -> None:
        if self.memory_bytes < 1:
            raise ClusterError(f"device: memory_bytes is {self.memory_bytes}; it must be at least 1.")
        if not (math.isfinite(self.speed) and self.speed > 0):
            raise ClusterError(f"device: speed is {self.speed}; it must be finite and above 0.")


@dataclass(frozen=True)
class Cluster:
    """The devices of one host; a device is named by its index.

    host_cores: what emulated devices, copies at memory speed and loaders compute on; None for plenty.
    """

    devices: tuple[Device, ...]
    host_cores: int | None = None

    def __post_init__(self) -> None:
        if self.host_cores is not None and self.host_cores < 1:
            raise ClusterError(f"host_cores is {self.host_cores}; it must be at least 1.")
        if not self.devices:
            raise ClusterError("the cluster has no devices; give it at least one.")

    @classmethod
    def of(cls, count: int, device: Device) -> Cluster:
        """Return a cluster of `count` equal devices."""
        if count < 1:
            raise ClusterError(f"a cluster of {count} devices cannot train; give it at least one.")
        return cls((device,) * count)

    @cached_property
    def digest(self) -> str:
        """Return a short hash of every field; plans name the cluster they were made for by it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]
