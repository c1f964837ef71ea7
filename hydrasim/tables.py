"""A run in two tables: what became of every job, and what every device did; times in seconds, sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from hydrasim.causes import Cause, causes_by_device
from hydrasim.command import Kind
from hydrasim.utilization import Interval, busy_intervals, total_s

if TYPE_CHECKING:
    import pandas as pd

    from hydrasim.timeline import Span, Timeline


@dataclass(frozen=True)
class JobRow:
    """What became of a job.

    num_units: units computed. compute_s: device seconds that they took. moved_bytes: copied between host and
    devices for it. first_start_s: when its first unit began. turnaround_s: from its arrival to the end of its
    last command. wait_s: how much of that none of its units was computing.
    """

    job: str
    num_units: int
    compute_s: float
    moved_bytes: int
    wait_s: float
    first_start_s: float
    end_s: float
    turnaround_s: float


@dataclass(frozen=True)
class DeviceRow:
    """What a device did.

    *_fraction: its utilization by three definitions, see `hydrasim.utilization`. peak_bytes: the most memory
    that it held, where the header says (plans and rival systems do); else the most that live blocks held of
    its arena when a unit began, which leaves out activations and temporaries. h2d_bytes, d2h_bytes: copied to
    and from the host. peer_bytes: sent by it, in collectives too. idle_s: its seconds without a unit, by what
    it waited for.
    """

    device: int
    num_units: int
    compute_busy_fraction: float
    any_lane_busy_fraction: float
    nvidia_smi_like_fraction: float
    peak_bytes: int
    h2d_bytes: int
    d2h_bytes: int
    peer_bytes: int
    idle_s: dict[Cause, float]


def job_rows(timeline: Timeline, arrivals: Mapping[str, float] | None = None) -> list[JobRow]:
    """Return a row a job, in order of their first spans.

    arrivals: when jobs were submitted, in seconds since the run began, for those that were not there at once.
    """
    spans: dict[str, list[Span]] = {}
    for span in timeline.spans:
        spans.setdefault(span.job, []).append(span)
    return [_job_row(job, mine, (arrivals or {}).get(job, 0.0)) for job, mine in spans.items()]


def device_rows(timeline: Timeline) -> list[DeviceRow]:
    """Return a row a device."""
    return [_device_row(timeline, device, seconds) for device, seconds in enumerate(causes_by_device(timeline))]


def jobs_frame(timeline: Timeline, arrivals: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Return the rows of `job_rows` as a data frame, columns named as the fields of JobRow."""
    import pandas as pd

    rows = [asdict(row) for row in job_rows(timeline, arrivals)]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=[field.name for field in fields(JobRow)])
    return frame


def devices_frame(timeline: Timeline) -> pd.DataFrame:
    """Return the rows of `device_rows` as a data frame, columns named as the fields of DeviceRow.

    In place of idle_s there is a column for each cause: idle_h2d_s, idle_d2h_s and so on.
    """
    import pandas as pd

    rows = []
    for row in device_rows(timeline):
        cells = asdict(row)
        idle_s = cells.pop("idle_s")
        rows.append(cells | {f"idle_{cause}_s": seconds for cause, seconds in idle_s.items()})
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def _job_row(job: str, spans: list[Span], arrival_s: float) -> JobRow:
    computes = [span for span in spans if span.kind == Kind.COMPUTE.value]
    end_s = max(span.end_s for span in spans)
    return JobRow(
        job,
        len(computes),
        sum(span.duration_s for span in computes),
        _bytes_of(spans, Kind.LOAD, Kind.STORE),
        end_s - arrival_s - total_s(busy_intervals(map(Interval.of, computes))),
        min((span.start_s for span in computes), default=end_s),
        end_s,
        end_s - arrival_s,
    )


def _device_row(timeline: Timeline, device: int, seconds: dict[Cause, float]) -> DeviceRow:
    spans = timeline.by_device[device]
    stated = timeline.header.get("peak_bytes")
    return DeviceRow(
        device,
        sum(span.kind == Kind.COMPUTE.value for span in spans),
        timeline.utilization(device, "compute-busy"),
        timeline.utilization(device, "any-lane-busy"),
        timeline.utilization(device, "nvidia-smi-like"),
        stated[device] if stated else max((span.live_bytes for span in spans), default=0),
        _bytes_of(spans, Kind.LOAD),
        _bytes_of(spans, Kind.STORE),
        _bytes_of(spans, Kind.SEND, Kind.GATHER),
        {cause: idle_s for cause, idle_s in seconds.items() if cause != "compute"},
    )


def _bytes_of(spans: list[Span], *kinds: Kind) -> int:
    names = {kind.value for kind in kinds}
    return sum(span.nbytes for span in spans if span.kind in names)
