"""The machines that there are: the paper's two, two desktops, and hosts of eight A100 and of eight H100.

A source begins with how it was come by: `paper`; `read`, on 2026-11-23; `remembered`, not read
again; or `estimate`, ours, and from what. Bandwidths of links, buses and host memory are what was measured; what the
standard allows stands beside them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydrasim.cluster import GIB, Bus, Cluster, Device, Disk, Link
from hydrasim.machine import Accelerator, Machine

if TYPE_CHECKING:
    from collections.abc import Mapping

_MEASURED = "https://gist.github.com/ypwhs/a156353cb19e780e323be054821af015"
_DEEP_LEARNING_BOX = "'Deep Learning Box: Setup and Installation' (April 2018; its address was not kept)"
_WAREDB = "https://waredb.com/processor/nvidia-geforce-rtx-4090"
_PADERBORN = "https://upb-pc2.atlassian.net/wiki/spaces/PC2DOK/pages/1900609/NVIDIA+A100+40GB+with+NVLINK"
_KLOCKWOOD = "https://glennklockwood.com/garden/processors/h100"

GTX_1080_TI = Accelerator(
    "GTX 1080 Ti",
    11_718_230_016,
    484e9,
    {"fp32": 11.34e12, "fp16": 11.34e12},
    {
        "memory_bytes": f"read: deviceQuery in {_DEEP_LEARNING_BOX}",
        "memory_bytes_per_s": "read: https://www.technic3d.com/review/grafikkarten/2026-zotac-geforce-gtx-1080-ti-amp-"
        "extreme/2.htm",
        "flops_per_s": "read: 3584 cores at 1582 MHz, https://gist.github.com/Vilsol/b742b0e65f8d51afaa54c4895f8926ee, "
        "two operations a clock; fp16 products are computed at the rate of fp32, 10.3 against 10.5 TFLOPS measured, "
        + _MEASURED,
    },
)
RTX_2080_TI = Accelerator(
    "RTX 2080 Ti",
    11_546_394_624,
    616e9,
    {"fp32": 13.45e12, "fp16": 53.8e12},
    {
        "memory_bytes": "remembered: a deviceQuery listing whose address is lost; later drivers report 200 MB less",
        "memory_bytes_per_s": "read: https://huggingface.co/datasets/NYUGPUClass/NTT_dataset_20k",
        "flops_per_s.fp32": "read: 4352 cores at 1545 MHz, in the listing too, two operations a clock",
        "flops_per_s.fp16": f"remembered: Turing white paper, reference card; 53.4 TFLOPS measured (read {_MEASURED})",
    },
)
RTX_4090 = Accelerator(
    "RTX 4090",
    24_217 << 20,
    1008e9,
    {"fp32": 82.58e12, "tf32": 82.58e12, "fp16": 165.15e12, "bf16": 165.15e12},
    {
        "memory_bytes": "remembered: what CUDA reports under Linux of the 24,564 MiB that nvidia-smi shows",
        "memory_bytes_per_s": f"read: {_WAREDB}",
        "flops_per_s": f"read: {_WAREDB}, without sparsity",
    },
)
A100 = Accelerator(
    "A100 40GB",
    42_405_855_232,
    1555e9,
    {"fp32": 19.5e12, "tf32": 156e12, "fp16": 312e12, "bf16": 312e12},
    {
        "memory_bytes": f"read: {_PADERBORN}",
        "memory_bytes_per_s": f"read: {_PADERBORN}",
        "flops_per_s": f"read: {_PADERBORN}, without sparsity",
    },
)
H100 = Accelerator(
    "H100 SXM",
    81_082 << 20,
    3350e9,
    {"fp32": 66.9e12, "tf32": 494.7e12, "fp16": 989.4e12, "bf16": 989.4e12},
    {
        "memory_bytes": "remembered: torch reports 81,082 to 81,090 MiB, in listings whose addresses were not kept",
        "memory_bytes_per_s": f"read: {_KLOCKWOOD}",
        "flops_per_s": f"read: {_KLOCKWOOD}, without sparsity",
    },
)

_GEN3 = "PCIe 3.0 x16 allows 15.75 GB/s"
_RTX_6000 = "read https://github.com/npho/cse554, assignment1/host_GPU"
_OXIDE = "https://github.com/NVlabs/cuda-oxide/pull/976"
_PAIRS = "https://github.com/NVIDIA/nccl-tests/issues/117"
_AWS = "https://dustinward.cloud/amazon-ec2-p4d-instances-deep-dive (copy of the vendor's article)"
_API_EVANGELIST = "https://raw.githubusercontent.com/api-evangelist"
_LAMBDA = f"{_API_EVANGELIST}/lambda-labs/refs/heads/main/plans/lambda-labs-plans-pricing.yml"
_TRIAD = (
    "estimate: 0.6 of {}, the share that STREAM triad reached on two sockets of Xeon E5-2695 v4 (0.58) and "
    "Platinum 8480+ (0.61), read https://github.com/simon-r/My_Stream_Benchmark"
)
_SLOW_STAGING = f"estimate: as 1 MiB to and from a Quadro RTX 6000 in a server, 3.7 and 3.4 GB/s, {_RTX_6000}"
_LATENCY_S = 7e-6
_LATENCY = f"estimate: as for a Quadro RTX 6000 in a server, where 1 KiB took 6.9 us, {_RTX_6000}"
_DRIVE_LATENCY_S = 1e-4


def _device(card: Accelerator, h2d: float, d2h: float, staged: tuple[float, float] | None, **fields: Any) -> Device:
    """Return a device; h2d, d2h: bandwidths of pinned copies; staged: of pageable ones, None for the same."""
    to, back = staged or (None, None)
    links = (Link(h2d, _LATENCY_S, to), Link(d2h, _LATENCY_S, back))
    return Device(card.memory_bytes, kind=card.name, h2d=links[0], d2h=links[1], **fields)


def _behind_switches(device: Device, num_switches: int, devices_each: int, **host: Any) -> Cluster:
    """Return equal devices behind PCIe switches, each with one link to the host that is as fast as a device's."""
    bytes_per_s = max(device.h2d.bytes_per_s, device.d2h.bytes_per_s)
    buses = tuple(Bus(f"switch{index}", bytes_per_s) for index in range(num_switches))
    devices = tuple(
        replace(device, h2d=replace(device.h2d, shared=bus.name), d2h=replace(device.d2h, shared=bus.name))
        for bus in buses
        for _ in range(devices_each)
    )
    return Cluster(devices, buses=buses, **host)


def _machine(
    name: str, summary: str, cards: tuple[Accelerator, ...], cluster: Cluster, sources: Mapping[str, str], **price: Any
) -> Machine:
    """Return a machine; `*` in the path of a source stands for each of its cards."""
    named = {f"{card.name}.{field}": text for card in cards for field, text in card.sources.items()}
    latencies = {f"*.{link}.latency_s": _LATENCY for link in ("h2d", "d2h")}
    for path, text in (latencies | dict(sources)).items():
        named |= {path.replace("*", card.name): text for card in cards}
    return Machine(name, summary, cluster, {card.name: card for card in cards}, named, **price)


_PASCAL = _machine(
    "8x1080ti",
    "the machine of the paper's 2021 version",
    (GTX_1080_TI,),
    _behind_switches(
        _device(GTX_1080_TI, 13.19e9, 13.42e9, (3.7e9, 3.4e9)), 2, 4,
        host_cores=10, host_memory_bytes=512 * GIB, host_bytes_per_s=40e9,
    ),
    {
        "*.h2d.bytes_per_s": f"read: bandwidthTest, 12,582 MiB/s, in {_DEEP_LEARNING_BOX}; {_GEN3}",
        "*.d2h.bytes_per_s": "read: bandwidthTest, 12,802 MiB/s, there too",
        "*.h2d.pageable_bytes_per_s": _SLOW_STAGING,
        "*.d2h.pageable_bytes_per_s": _SLOW_STAGING,
        "buses": "estimate: four cards behind each of two switches, since one CPU of 10 cores has lanes for two x16 "
        "links (single root, as https://www.servethehome.com/deeplearning11-10x-nvidia-gtx-1080-ti-single-root-deep-"
        "learning-server-part-1/), each as fast as a card's link; the paper does not say",
        "host_cores": "paper: 2021 version, evaluation: Xeon, 10 cores at 2.20 GHz",
        "host_memory_bytes": "paper: 2021 version, evaluation: 512 GB of DRAM, taken as GiB",
        "host_bytes_per_s": _TRIAD.format("68.3 GB/s, four channels of DDR4-2133 (taken to be one E5-2630 v4)"),
    },
)  # fmt: skip

_TURING = _machine(
    "8x2080ti",
    "the machine of the paper's 2022 version; its NVLink bridges are left out, see RTX 2080 Ti.peer",
    (RTX_2080_TI,),
    _behind_switches(
        _device(RTX_2080_TI, 13.1e9, 13.1e9, (3.7e9, 3.4e9)), 4, 2,
        host_cores=80, host_memory_bytes=500 * 10**9, host_bytes_per_s=170e9,
    ),
    {
        "*.h2d.bytes_per_s": f"read: bandwidthTest, https://github.com/usadellab/Helixer/issues/22; {_GEN3}",
        "*.d2h.bytes_per_s": "estimate: as h2d",
        "*.h2d.pageable_bytes_per_s": _SLOW_STAGING,
        "*.d2h.pageable_bytes_per_s": _SLOW_STAGING,
        "*.peer": "estimate: none, though the paper says NVLink-enabled: a bridge joins two cards (50 GB/s each way, "
        f"remembered), other pairs copy through the host (no peer access on these cards, read {_PAIRS}), and the "
        "slowest hop sets the pace of rings and pipelines",
        "buses": "estimate: two cards behind each of four switches, as bus numbers of the eight-card host in "
        f"{_PAIRS} suggest, each as fast as a card's link; the paper does not say",
        "host_cores": "paper: 2022 version, evaluation: 80 cores (threads, it seems)",
        "host_memory_bytes": "paper: 2022 version, evaluation: 500 GB of DRAM",
        "host_bytes_per_s": _TRIAD.format("281.6 GB/s, twelve channels of DDR4-2933 (taken to be two Xeon Gold)"),
    },
)  # fmt: skip

_DESKTOP = {
    "host_cores": "estimate: an eight-core desktop CPU of 2024, such as the Ryzen 7 9800X3D",
    "host_memory_bytes": "estimate: two modules of 32 GiB",
    "host_bytes_per_s": "read: 59 GB/s, AIDA64 copy on a Ryzen 7 9800X3D with DDR5-6000 (96 GB/s allowed), "
    "https://forums.tomshardware.com/threads/3871519/post-23422440",
    "disk": "remembered: data sheet of a PCIe 4.0 drive, Samsung 980 PRO 1 TB",
    "disk.read.latency_s": "estimate: the usual of such drives",
    "disk.write.latency_s": "estimate: as reads",
}
_DESKTOP_HOST: Mapping[str, Any] = {
    "host_cores": 8,
    "host_memory_bytes": 64 * GIB,
    "host_bytes_per_s": 59e9,
    "disk": Disk(Link(7.0e9, _DRIVE_LATENCY_S), Link(5.0e9, _DRIVE_LATENCY_S)),
}

_ADA = _machine(
    "1x4090",
    "a desktop with one card",
    (RTX_4090,),
    Cluster((_device(RTX_4090, 23.9e9, 26.55e9, (12.9e9, 12.3e9)),), **_DESKTOP_HOST),
    {
        "*.h2d": f"read: pinned 23.9 GB/s, pageable 12.88 GB/s at 64 MiB, {_OXIDE}; PCIe 4.0 x16 allows 31.5 GB/s",
        "*.d2h": f"read: pinned 26.55 GB/s, pageable 12.34 GB/s at 16 MiB, {_OXIDE}",
        **_DESKTOP,
    },
    price_usd_per_hour=0.29,
    price_source=f"OpenRelay, read {_API_EVANGELIST}/openrelay/refs/heads/main/plans/openrelay-plans-pricing.yml",
    price_date="2026-09-20",
)

_MIXED = _machine(
    "4090-2080ti",
    "a desktop that kept its old card: two unequal cards, each on half of the CPU's lanes",
    (RTX_4090, RTX_2080_TI),
    Cluster(
        (_device(RTX_4090, 11.95e9, 13.28e9, None), _device(RTX_2080_TI, 6.55e9, 6.55e9, None, speed=0.163)),
        **_DESKTOP_HOST,
    ),
    {
        "RTX 4090": f"estimate: half of what x16 gives, {_OXIDE}, as desktop CPUs have 16 lanes for cards; pageable "
        "copies keep up with it, being staged at 12 GB/s there",
        "RTX 2080 Ti": "estimate: half of what x16 gives, https://github.com/usadellab/Helixer/issues/22, likewise",
        "RTX 2080 Ti.speed": "estimate: the ratio of the fp32 peaks; that of the fp16 peaks is 0.33",
        **_DESKTOP,
    },
)

_AMPERE = _machine(
    "8xa100-40gb",
    "AWS p4d.24xlarge: A100s with NVSwitch, behind a host of PCIe 3.0",
    (A100,),
    _behind_switches(
        _device(A100, 12.3e9, 13.2e9, (3.7e9, 3.4e9), peer=Link(250e9, _LATENCY_S)), 4, 2,
        host_cores=48, host_memory_bytes=1152 * GIB, host_bytes_per_s=170e9,
        disk=Disk(Link(16e9, _DRIVE_LATENCY_S), Link(8e9, _DRIVE_LATENCY_S)),
    ),
    {
        "*.h2d.bytes_per_s": "read: bandwidthTest on such a card, behind PCIe 3.0 as the result tells, "
        f"https://github.com/router-gao/cuda-demo, cuda-samples/02-cuda-bandwidth.md; {_GEN3}, and the p4d has no "
        "PCIe 4.0 (read https://lambdalabs.com/blog/tesla-a100-server-total-cost-of-ownership/)",
        "*.d2h.bytes_per_s": "read: bandwidthTest, there too",
        "*.h2d.pageable_bytes_per_s": _SLOW_STAGING,
        "*.d2h.pageable_bytes_per_s": _SLOW_STAGING,
        "*.peer": "estimate: 0.84 of the 300 GB/s that are allowed a direction, the share measured on H100, read "
        "https://github.com/NVIDIA/nccl/issues/1264; latency as for h2d",
        "buses": "estimate: two cards behind each of four switches (so are those of an eight-card A100 host, read "
        "https://github.com/NVIDIA/nvbandwidth/issues/53), each as fast as a card's link",
        "host_cores": f"read: 96 vCPUs, two a core, {_AWS}",
        "host_memory_bytes": "read: 1152 GiB, a copy of aws.amazon.com/ec2/capacityblocks/pricing",
        "host_bytes_per_s": _TRIAD.format("281.6 GB/s, twelve channels of DDR4-2933 (two Xeon 8275CL)"),
        "disk": "estimate: writes at half the speed of reads; latency, the usual of such drives",
        "disk.read.bytes_per_s": f"read: eight drives together, {_AWS}",
    },
    price_usd_per_hour=21.957642,
    price_source="AWS on demand, us-east-1, read https://raw.githubusercontent.com/datareceipts/data-receipts/main/"
    "109-gpu-pricing/hyperscalers.json",
    price_date="2026-11-09",
)  # fmt: skip

_HOPPER = _machine(
    "8xh100",
    "Lambda 8x H100 SXM: H100s with NVSwitch, behind a host of PCIe 5.0",
    (H100,),
    _behind_switches(
        _device(H100, 55.63e9, 52.77e9, (9e9, 9e9), peer=Link(376e9, _LATENCY_S)), 4, 2,
        host_cores=104, host_memory_bytes=1800 * GIB, host_bytes_per_s=370e9,
    ),
    {
        "*.h2d.bytes_per_s": "read: nvbandwidth, https://dev.smart-guide.co.kr/en/tutorial/nvidia-nvbandwidth-measure-"
        "gpu-interconnect-performance-tutorial/ (after the vendor's article; card not named); PCIe 5.0 x16: 63 GB/s",
        "*.d2h.bytes_per_s": "read: nvbandwidth on eight H100, https://github.com/NVIDIA/nvbandwidth/issues/24",
        "*.h2d.pageable_bytes_per_s": "estimate: a sixth of pinned, as https://github.com/microsoft/DeepSpeed/pull/5301",
        "*.d2h.pageable_bytes_per_s": "estimate: as h2d",
        "*.peer.bytes_per_s": "read: 371 to 377 GB/s of 450 allowed a direction, https://github.com/NVIDIA/nccl/issues/1264",
        "*.peer.latency_s": "estimate: as for h2d",
        "buses": "estimate: two cards behind each of four switches, as in common hosts, each as fast as a card's link",
        "host_cores": f"read: 208 vCPUs, two a core, {_LAMBDA}",
        "host_memory_bytes": f"read: 1800 GiB, {_LAMBDA}",
        "host_bytes_per_s": "read: 372 GB/s, STREAM triad on two Xeon Platinum 8480+ (614 GB/s allowed), "
        "https://github.com/simon-r/My_Stream_Benchmark; that the host has these is remembered",
    },
    price_usd_per_hour=31.92,
    price_source=f"Lambda on demand, $3.99 for each card, read {_LAMBDA}",
    price_date="2026-09-20",
)  # fmt: skip

MACHINES: Mapping[str, Machine] = {m.name: m for m in (_PASCAL, _TURING, _ADA, _MIXED, _AMPERE, _HOPPER)}
