"""The command `machines`: what machines there are, what their numbers come from, and their clusters as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments import report
from experiments.options import one_of, output_option
from hydrasim.errors import HydraError
from hydrasim.machines import MACHINES

if TYPE_CHECKING:
    from hydrasim.machine import Machine

COLUMNS = ("machine", "devices", "memory", "GB/s", "pageable", "peers", "a switch", "cores", "host", "USD/h", "read on")


def machines(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", callback=one_of("machines", MACHINES), help="Only this one.")
    ] = None,
    output: Annotated[
        Path | None, output_option("--output", "-o", text="Write its cluster, to be edited (.yaml, .json).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """List the machines that --machine knows, or the numbers of one with their sources."""
    if name is None:
        if output is not None:
            raise HydraError(f"say which machine's cluster {output} is to hold: {', '.join(MACHINES)}.")
        _print_all(as_json=as_json)
        return
    machine = MACHINES[name]
    if output is not None:
        machine.write_cluster(output)
    if as_json:
        report.print_json(machine_fields(machine))
        return
    typer.echo(f"{machine.name}: {machine.summary}")
    rows = [[path, _quantity(path, value), machine.source_of(path)] for path, value in machine.constants().items()]
    if machine.price_usd_per_hour is not None:
        rows.append(["price", f"${machine.price_usd_per_hour:.2f}/h", f"{machine.price_source}, {machine.price_date}"])
    report.print_table(("number", "value", "source"), rows, text=True)


def _print_all(*, as_json: bool) -> None:
    if as_json:
        report.print_json([machine_fields(machine) for machine in MACHINES.values()])
        return
    report.print_table(COLUMNS, [machine_cells(machine) for machine in MACHINES.values()], text=True)
    typer.echo(
        "GB/s: pinned copies from the host, pageable ones, copies between devices; a switch: how many devices share\n"
        "one link to the host. hydrasim machines NAME names the source of every number."
    )


def machine_fields(machine: Machine) -> dict[str, Any]:
    """Return a machine as JSON values: every number by its path, with its source."""
    return {
        "machine": machine.name,
        "summary": machine.summary,
        "devices": [device.kind for device in machine.cluster.devices],
        "price_usd_per_hour": machine.price_usd_per_hour,
        "price_source": machine.price_source,
        "price_date": machine.price_date,
        "constants": {
            path: {"value": value, "source": machine.source_of(path)} for path, value in machine.constants().items()
        },
    }


def machine_cells(machine: Machine) -> list[str]:
    """Return a machine's line in the table of all; several lines a cell where its cards differ."""
    cluster = machine.cluster
    kinds = [device.kind for device in cluster.devices]
    different = {device.kind: device for device in cluster.devices}.values()
    cells = [
        (
            f"{kinds.count(device.kind)} x {device.kind}",
            report.size(device.memory_bytes),
            _gigabytes(device.h2d.bytes_per_s),
            _gigabytes(device.h2d.rate_bytes_per_s(pinned=False)),
            "-" if device.peer is None else _gigabytes(device.peer.bytes_per_s),
        )
        for device in different
    ]
    price = machine.price_usd_per_hour
    return [
        machine.name,
        *map("\n".join, zip(*cells, strict=True)),
        f"{len(kinds) // len(cluster.buses)}" if cluster.buses else "-",
        f"{cluster.host_cores}",
        report.size(cluster.host_memory_bytes or 0),
        "-" if price is None else f"{price:.2f}",
        machine.price_date or "-",
    ]


def _gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:.3g}"


def _quantity(path: str, value: float) -> str:
    """Write a number for people, by the unit that its name ends in."""
    if path.endswith("bytes_per_s"):
        return f"{value / 1e9:,.4g} GB/s"
    if "flops_per_s" in path:
        return f"{value / 1e12:,.4g} TFLOPS"
    if path.endswith("_bytes"):
        return report.size(value)
    return report.seconds(value) if path.endswith("_s") else f"{value:,}"
