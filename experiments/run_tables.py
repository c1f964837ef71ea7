"""A run's jobs and devices as tables for people, and as JSON values."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from experiments.report import percent, print_table, seconds, size
from hydrasim.tables import device_rows, job_rows
from hydrasim.utilization import UTILIZATION_KINDS

if TYPE_CHECKING:
    from experiments.inputs import Inputs
    from hydrasim.tables import JobRow
    from hydrasim.timeline import Timeline


def table_fields(timeline: Timeline, inputs: Inputs) -> dict[str, Any]:
    """Return every job and every device as JSON values; times in seconds, sizes in bytes."""
    return {
        "jobs": [asdict(row) for row in _jobs(timeline, inputs)],
        "devices": [asdict(row) for row in device_rows(timeline)],
    }


def print_tables(timeline: Timeline, inputs: Inputs) -> None:
    """Print what became of every job, what every device did, and what the devices without a unit waited for."""
    jobs = [
        (row.job, f"{row.num_units:,}", seconds(row.compute_s), size(row.moved_bytes), seconds(row.wait_s),
         seconds(row.first_start_s), seconds(row.end_s), seconds(row.turnaround_s))
        for row in _jobs(timeline, inputs)
    ]  # fmt: skip
    print_table(("job", "units", "compute", "moved", "waits", "first start", "end", "turnaround"), jobs)
    rows = device_rows(timeline)
    peak = "peak memory" if timeline.header.get("peak_bytes") else "peak in arena"
    devices = [
        (f"device {row.device}", f"{row.num_units:,}", percent(row.compute_busy_fraction),
         percent(row.any_lane_busy_fraction), percent(row.nvidia_smi_like_fraction), size(row.peak_bytes),
         size(row.h2d_bytes), size(row.d2h_bytes), size(row.peer_bytes))
        for row in rows
    ]  # fmt: skip
    print_table(("device", "units", *UTILIZATION_KINDS, peak, "h2d", "d2h", "peer"), devices)
    causes = [cause for cause in rows[0].idle_s if any(row.idle_s[cause] for row in rows)]
    if causes:
        idle = [(f"device {row.device}", *(seconds(row.idle_s[cause]) for cause in causes)) for row in rows]
        print_table(("no unit, for", *causes), idle)


def _jobs(timeline: Timeline, inputs: Inputs) -> list[JobRow]:
    return job_rows(timeline, {job.name: job.arrival_s for job in inputs.workload.jobs})
