"""Where training runs: devices, host memory, disk, and the links between them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal, get_args

from hydrasim.errors import ClusterError

GIB = 1 << 30

Duplex = Literal["full", "half"]
Direction = Literal["h2d", "d2h"]
DiskDirection = Literal["read", "write"]
Resource = tuple[str, str]  # what it is, and where
Path = dict[Resource, float]  # what limits a copy: the bytes a second that each resource on its way carries

MEMORY: Resource = ("memory", "host")
DISK: Resource = ("disk", "host")

_PAGEABLE_TRAFFIC = 3  # read the source, write the staging buffer, read that
_EMULATED_TRAFFIC = 2  # read here, write there: the device is host memory too


@dataclass(frozen=True)
class Link:
    """One direction between two memories; alone, a copy takes latency + bytes / bandwidth.

    pageable_bytes_per_s: the bandwidth of copies from or to unpinned host memory; None for the same.
    shared: the name of the bus that the link runs over; "" for none.
    """

    bytes_per_s: float = math.inf
    latency_s: float = 0.0
    pageable_bytes_per_s: float | None = None
    shared: str = ""

    def __post_init__(self) -> None:
        for name in ("bytes_per_s", "pageable_bytes_per_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ClusterError(f"link: {name} is {value}; it must be above 0.")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise ClusterError(f"link: latency_s is {self.latency_s}; it must be finite and not negative.")

    def copy_s(self, nbytes: int) -> float:
        """Return the seconds that a copy of that many bytes takes when alone on the link."""
        return self.latency_s + nbytes / self.bytes_per_s

    def rate_bytes_per_s(self, pinned: bool = True) -> float:
        """Return the bandwidth of pinned or pageable copies."""
        return self.bytes_per_s if pinned or self.pageable_bytes_per_s is None else self.pageable_bytes_per_s


@dataclass(frozen=True)
class Bus:
    """What several links run over, such as a PCIe root complex.

    bytes_per_s: what it carries in each direction at once ("full"), or in both together ("half").
    """

    name: str
    bytes_per_s: float
    duplex: Duplex = "full"

    def __post_init__(self) -> None:
        if not self.name:
            raise ClusterError("bus: it has no name; links name the bus that they run over.")
        if not self.bytes_per_s > 0:
            raise ClusterError(f"bus {self.name!r}: bytes_per_s is {self.bytes_per_s}; it must be above 0.")
        _check_duplex(f"bus {self.name!r}", self.duplex)


@dataclass(frozen=True)
class Disk:
    """The tier below host memory; reads and writes stand in one queue."""

    read: Link = field(default_factory=Link)
    write: Link = field(default_factory=Link)


@dataclass(frozen=True)
class Device:
    """One accelerator.

    speed: divides the seconds of a reference device of speed 1. duplex: whether its h2d and d2h copies share
    the time of one link. peer: its link to the other devices of the host, one each way; None sends through
    host memory. on_host: it is emulated, and computes on the host's cores.
    """

    memory_bytes: int
    speed: float = 1.0
    h2d: Link = field(default_factory=Link)
    d2h: Link = field(default_factory=Link)
    kind: str = "simulated"
    duplex: Duplex = "full"
    peer: Link | None = None
    on_host: bool = False

    def __post_init__(self) -> None:
        if self.memory_bytes < 1:
            raise ClusterError(f"device: memory_bytes is {self.memory_bytes}; it must be at least 1.")
        if not (math.isfinite(self.speed) and self.speed > 0):
            raise ClusterError(f"device: speed is {self.speed}; it must be finite and above 0.")
        _check_duplex("device", self.duplex)


@dataclass(frozen=True)
class Cluster:
    """The devices of one host; a device is named by its index.

    host_cores: what emulated devices, copies at memory speed and host-side work compute on; None for plenty.
    buses: what links share, by the name that they give. host_memory_bytes: room for shards, boundaries and
    spilled activations; None for plenty. host_bytes_per_s: what host memory carries, all copies together.
    disk: where state goes that host memory has no room for. compute_slowdown: how many times longer units
    take by the number of devices that compute, from 1 on; beyond its end, as at its end. variation:
    coefficient of variation of what commands take, under noise. dispatch_s: from the end of a command until
    those that follow from it have been issued, as an overhead. core_copy_bytes_per_s: what one host core
    copies; an emulated device's copy over a slower link takes that share of a core, at memory speed a whole one.
    restart_s: until a job whose newest state was lost with a device is as it was at its last checkpoint.
    """

    devices: tuple[Device, ...]
    host_cores: int | None = None
    buses: tuple[Bus, ...] = ()
    host_memory_bytes: int | None = None
    host_bytes_per_s: float = math.inf
    disk: Disk | None = None
    compute_slowdown: tuple[float, ...] = ()
    variation: float = 0.0
    dispatch_s: float = 0.0
    core_copy_bytes_per_s: float = math.inf
    restart_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.devices:
            raise ClusterError("the cluster has no devices; give it at least one.")
        for name in ("host_cores", "host_memory_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ClusterError(f"{name} is {value}; it must be at least 1.")
        for name in ("host_bytes_per_s", "core_copy_bytes_per_s"):
            if not getattr(self, name) > 0:
                raise ClusterError(f"{name} is {getattr(self, name)}; it must be above 0.")
        for name in ("dispatch_s", "restart_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ClusterError(f"{name} is {value}; it must be finite and not negative.")
        self._check_slowdown()
        if not (math.isfinite(self.variation) and 0 <= self.variation <= 1):
            raise ClusterError(f"variation is {self.variation}; it must be from 0 to 1.")
        self._check_buses()

    def _check_slowdown(self) -> None:
        for factor in self.compute_slowdown:
            if not (math.isfinite(factor) and factor >= 1):
                raise ClusterError(f"compute_slowdown: {factor} is no slowdown; it must be finite and at least 1.")
        if self.compute_slowdown and self.compute_slowdown[0] != 1:
            raise ClusterError(
                f"compute_slowdown begins with {self.compute_slowdown[0]}; the first is of one device alone, and is 1."
            )

    def _check_buses(self) -> None:
        names = [bus.name for bus in self.buses]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ClusterError(f"two buses are named {twice!r}; names must differ.")
        links = [
            (f"device {index}: {name}", link)
            for index, device in enumerate(self.devices)
            for name, link in (("h2d", device.h2d), ("d2h", device.d2h), ("peer", device.peer))
        ]
        if self.disk is not None:
            links += [("disk: read", self.disk.read), ("disk: write", self.disk.write)]
        for what, link in links:
            if link is not None and link.shared and link.shared not in names:
                raise ClusterError(
                    f"{what} is shared over {link.shared!r}, which is no bus of the cluster; "
                    f"there are {', '.join(names) or 'none'}."
                )

    @classmethod
    def of(cls, count: int, device: Device) -> Cluster:
        """Return a cluster of `count` equal devices."""
        if count < 1:
            raise ClusterError(f"a cluster of {count} devices cannot train; give it at least one.")
        return cls((device,) * count)

    def copy_path(self, device: int, direction: Direction, pinned: bool = True) -> Path:
        """Return what a copy between host and device runs over, the two directions of a half-duplex link as one."""
        end = self.devices[device]
        link, way = (end.h2d, "out") if direction == "h2d" else (end.d2h, "in")
        name = "link" if end.duplex == "half" else direction
        traffic = _EMULATED_TRAFFIC if end.on_host else 1 if pinned else _PAGEABLE_TRAFFIC
        path = {(name, str(device)): link.rate_bytes_per_s(pinned), MEMORY: self.host_bytes_per_s / traffic}
        return _limiting(path | self._over_bus(link, way))

    def send_path(self, source: int, target: int) -> Path:
        """Return what bytes from one device to another run over; of a device to itself, its part of a collective."""
        out, back = self.devices[source].peer, self.devices[target].peer
        if out is None or back is None:  # through host memory
            return _joined(self.copy_path(source, "d2h"), self.copy_path(target, "h2d"))
        ends = {("peer out", str(source)): out.bytes_per_s, ("peer in", str(target)): back.bytes_per_s}
        return _limiting(ends | _joined(self._over_bus(out, "in"), self._over_bus(back, "out")))

    def disk_path(self, direction: DiskDirection) -> Path:
        """Return what a copy between disk and host memory runs over."""
        disk = self.disk or Disk()
        link, way = (disk.read, "in") if direction == "read" else (disk.write, "out")
        return _limiting({DISK: link.bytes_per_s, MEMORY: self.host_bytes_per_s} | self._over_bus(link, way))

    def _over_bus(self, link: Link, way: str) -> Path:
        """Return what a link shares with others; way: "in" to host memory, or "out" of it."""
        bus = next((bus for bus in self.buses if bus.name == link.shared), None)
        if bus is None:
            return {}
        return _limiting({("bus" if bus.duplex == "half" else f"bus {way}", bus.name): bus.bytes_per_s})

    def copy_bytes_per_s(self, device: int, direction: Direction, pinned: bool = True) -> float:
        """Return the bandwidth of a copy between host and device when nothing else runs."""
        return bandwidth(self.copy_path(device, direction, pinned))

    def send_bytes_per_s(self, source: int, target: int) -> float:
        """Return the bandwidth between two devices when nothing else runs; through the host without peer links."""
        return bandwidth(self.send_path(source, target))

    def disk_s(self, nbytes: int, direction: DiskDirection) -> float:
        """Return the seconds that a copy between disk and host memory takes when nothing else runs."""
        return self.disk_latency_s(direction) + nbytes / bandwidth(self.disk_path(direction))

    def disk_latency_s(self, direction: DiskDirection) -> float:
        """Return how long the disk takes to begin."""
        disk = self.disk or Disk()
        return (disk.read if direction == "read" else disk.write).latency_s

    def send_latency_s(self, source: int, target: int) -> float:
        """Return how long bytes from one device take to begin to arrive at another."""
        start, end = self.devices[source], self.devices[target]
        if start.peer is None or end.peer is None:
            return start.d2h.latency_s + end.h2d.latency_s
        return max(start.peer.latency_s, end.peer.latency_s)

    def slowdown(self, num_computing: int) -> float:
        """Return how many times longer units take while so many devices compute."""
        factors = self.compute_slowdown
        return factors[min(num_computing, len(factors)) - 1] if factors else 1.0

    @cached_property
    def digest(self) -> str:
        """Return a short hash of every field that plans depend on; they name by it what they were made for."""
        fields = asdict(self)
        for name in ("core_copy_bytes_per_s", "compute_slowdown", "variation", "dispatch_s", "restart_s"):
            del fields[name]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def bandwidth(path: Path) -> float:
    """Return the bytes a second that a path carries when nothing else runs."""
    return min(path.values(), default=math.inf)


def _limiting(path: Path) -> Path:
    return {resource: bytes_per_s for resource, bytes_per_s in path.items() if math.isfinite(bytes_per_s)}


def _joined(first: Path, second: Path) -> Path:
    """Return the path of bytes that go over both; what is on both of them, they take twice."""
    twice = {resource: 1 / (1 / first[resource] + 1 / second[resource]) for resource in first if resource in second}
    return first | second | twice


def _check_duplex(what: str, duplex: str) -> None:
    if duplex not in get_args(Duplex):
        raise ClusterError(f"{what}: duplex is {duplex!r}; it is one of {', '.join(get_args(Duplex))}.")
