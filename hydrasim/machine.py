"""A real machine: its cluster, its cards' peak rates, its price, and where each of these numbers comes from."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from hydrasim.cluster import Cluster, Device
from hydrasim.disk import write_text
from hydrasim.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Accelerator:
    """A card, as an analytic cost model needs it.

    memory_bytes: what CUDA reports, of which its context takes a few hundred MiB. memory_bytes_per_s, flops_per_s:
    peaks, which no kernel quite reaches; the latter of dense products that are summed in fp32, by precision (fp32,
    tf32, fp16, bf16); one that the card has no fast way to compute is absent. sources: by field.
    """

    name: str
    memory_bytes: int
    memory_bytes_per_s: float
    flops_per_s: Mapping[str, float]
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Machine:
    """A host with its devices.

    accelerators: by `Device.kind`. sources: where numbers come from, by path; one for `disk` is also one for
    `disk.read.bytes_per_s`. price_usd_per_hour: of the whole machine, on demand; None where nobody is known to
    rent it out. price_date: when the price was read, as YYYY-MM-DD.
    """

    name: str
    summary: str
    cluster: Cluster
    accelerators: Mapping[str, Accelerator]
    sources: Mapping[str, str]
    price_usd_per_hour: float | None = None
    price_source: str = ""
    price_date: str = ""

    @property
    def accelerator(self) -> Accelerator:
        """Return the card that all devices are.

        Raises:
            ClusterError: they are of several kinds; take each device's from `accelerators`.
        """
        if len(self.accelerators) != 1:
            raise ClusterError(f"machine {self.name!r} has {' and '.join(self.accelerators)}; say which is meant.")
        return next(iter(self.accelerators.values()))

    def first(self, num_devices: int | None) -> Cluster:
        """Return the machine with its first devices only, or with all.

        Raises:
            ClusterError: it has not that many.
        """
        if num_devices is not None and not 1 <= num_devices <= len(self.cluster.devices):
            raise ClusterError(f"machine {self.name!r} has {len(self.cluster.devices)} devices, not {num_devices}.")
        return replace(self.cluster, devices=self.cluster.devices[:num_devices])

    def constants(self) -> dict[str, float]:
        """Return every number of the machine by its path, such as `RTX 4090.h2d.bytes_per_s`."""
        host = _stated(asdict(self.cluster), Cluster((Device(1),)))
        devices = {device.pop("kind"): _stated(device, Device(1)) for device in host.pop("devices")}
        cards = {kind: device | asdict(self.accelerators[kind]) for kind, device in devices.items()}
        return dict(_numbers("", host | cards))

    def source_of(self, path: str) -> str:
        """Return where a number comes from; "" if nobody said."""
        while path and path not in self.sources:
            path = path.rpartition(".")[0]
        return self.sources.get(path, "")

    def write_cluster(self, path: Path) -> None:
        """Write the cluster to a file that can be edited: JSON, or YAML with the sources as comments."""
        fields = _file_fields(self.cluster)
        if path.suffix == ".json":
            write_text(path, json.dumps(fields, indent=1) + "\n")
            return
        import yaml

        comments = [f"{self.name}: {self.summary}", *(f"{key}: {text}" for key, text in self.sources.items())]
        text = yaml.safe_dump(fields, sort_keys=False, width=math.inf)
        write_text(path, "".join(f"# {comment}\n" for comment in comments) + text)


def _stated(fields: dict[str, Any], default: object) -> dict[str, Any]:
    """Leave out the fields that are as they are by default."""
    return {key: value for key, value in fields.items() if value != getattr(default, key)}


def _numbers(path: str, value: object) -> Iterator[tuple[str, float]]:
    """Walk over the numbers in nested mappings and sequences; elements of a sequence share its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _numbers(path, inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def _file_fields(cluster: Cluster) -> dict[str, Any]:
    """Return a cluster file's fields, with equal neighbours as one device and a count."""
    from hydrasim.files import cluster_fields

    fields = _filled(cluster_fields(cluster))
    devices: list[dict[str, Any]] = []
    for device in fields.pop("devices"):
        if devices and devices[-1] == {"count": devices[-1]["count"], **device}:
            devices[-1]["count"] += 1
        else:
            devices.append({"count": 1, **device})
    return {"version": fields.pop("version"), "devices": devices, **fields}


def _filled(value: Any) -> Any:
    """Leave out the fields that hold nothing, as they do by default."""
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items() if inner not in (None, "", [], ())}
    return [_filled(inner) for inner in value] if isinstance(value, (list, tuple)) else value
