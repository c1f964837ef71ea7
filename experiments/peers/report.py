"""The races' figures for people: a page and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.peers.record import Record, summary
from experiments.peers.registry import OURS, find_contender
from experiments.report import percent, signed_percent, size
from hydrasim.disk import make_folder, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("", "ours over it", "95 % interval", "pairs", "tokens/s", "loss differs by", "memory a rank", "settings")
_SIMULATED_COLUMNS = (
    "simulated", "tokens/s", "measured", "off by", "ours over it", "measured ", "off by ",
)  # fmt: skip
_ABOUT = """\
All train the same jobs on the same two cores: a process a core with one thread, gloo over loopback. Losses of the first
mini-batches of every job are held against the reference loop's before anything is timed; those mini-batches warm up.
Process start, imports, profiling and building are timed for nobody. A run is the same number of further mini-batches of
every job; *ours* runs beside every rival, and the ratio is taken pair by pair: its median, and the bootstrap interval
of that. *Ours* holds the stated part of one model's state and an activation peak on each device; rivals have no limit
unless said. There is no device memory here and no PCIe: these numbers tell what scheduling, copies and engines cost,
not what hides behind a GPU's kernels."""


def write_report(records: Sequence[Record], folder: Path, command: str) -> Record:
    """Write summary.json, report.md and figure.png into the folder; return the summary."""
    make_folder(folder)
    found = summary(records, command)
    write_text(folder / "summary.json", json.dumps(found, indent=1) + "\n")
    write_text(folder / "report.md", report_text(records, command))
    draw(records, folder / "figure.png")
    return found


def report_text(records: Sequence[Record], command: str) -> str:
    """Return the races as a page."""
    lines = ["# Ours beside real rivals", "", f"Emulated: two devices that are CPU cores. Made by `{command}`.", ""]
    lines += [_ABOUT, ""]
    for record in records:
        lines += _race_lines(record)
    lines += ["![Ratios with their intervals](figure.png)", ""]
    return "\n".join(lines)


def _race_lines(record: Record) -> list[str]:
    settings, ours, host = record["settings"], record["contenders"][OURS], record["provenance"]
    jobs = ", ".join(
        f"{s['name']} {s['depth']}x{s['width']} ({s['minibatches']} mini-batches)" for s in settings["specs"]
    )
    facts = ours["facts"]
    lines = [
        f"## {record['workload']}, {record['optimizer']}{' (smoke: no numbers)' if record['is_smoke'] else ''}",
        "",
        f"{jobs}; {settings['batch_size']} x {settings['context']} tokens a mini-batch, fp32. Ours: policy "
        f"{settings['policy']}, {ours['tokens_per_s'] or 0:,.0f} tokens/s, on devices of "
        f"{size(facts['device_memory_bytes'])}: {percent(settings['budget_fraction'])} of the largest model's "
        f"{size(facts['state_bytes'])} of weights, gradients and optimizer state, and an activation peak of "
        f"{size(facts['activation_peak_bytes'])}. {host['cpu']}, {host['num_cores']} cores, torch {host['torch']}, "
        f"{host['measured_at']}.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'---|' * len(_COLUMNS)}",
    ]
    rivals = {name: found for name, found in record["contenders"].items() if name != OURS}
    lines += [f"| {' | '.join(_row(name, found))} |" for name, found in rivals.items() if "ratio" in found]
    lines.append("")
    lines += _memory_lines(rivals, facts["device_memory_bytes"])
    lines += [f"- {name} is out: {_flat(found['dropped'])}" for name, found in rivals.items() if found["dropped"]]
    return [*lines, "", *_simulated_lines(record)]


def _memory_lines(rivals: dict[str, Record], room: int) -> list[str]:
    """Say whether those that were to stay in our memory did."""
    return [
        f"- {name} takes {size(found['memory_bytes'])} a rank, "
        f"{'within' if found['memory_bytes'] <= room else 'more than'} the {size(room)} of a device of ours."
        for name, found in rivals.items()
        if found["memory_bytes"] is not None and find_contender(name).within_budget
    ]


def _row(name: str, found: Record) -> tuple[str, ...]:
    ratio = found["ratio"]
    return (
        name,
        f"**{ratio['value']:.3f}**",
        f"{ratio['low']:.3f} to {ratio['high']:.3f}",
        str(ratio["num_pairs"]),
        f"{found['tokens_per_s']:,.0f}",
        f"{found['loss_difference']:.1e}" if found["loss_difference"] else "nothing",
        "" if found["memory_bytes"] is None else size(found["memory_bytes"]),
        ", ".join(f"{option} {value}" for option, value in found["options"].items()),
    )


def _simulated_lines(record: Record) -> list[str]:
    """Return the table of what hydrasim simulates of the same race, at costs measured after it."""
    if not record["simulated"]:
        return []
    lines = [f"| {' | '.join(_SIMULATED_COLUMNS)} |", f"|{'---|' * len(_SIMULATED_COLUMNS)}"]
    for name, simulated in record["simulated"].items():
        real = record["contenders"].get(name, {})
        if "refused" in simulated:
            cells: tuple[str, ...] = (name, f"refused: {_flat(simulated['refused'])}", "", "", "", "", "")
        else:
            beside = ("", "", "", "")
            if "ratio" in real:
                rate, ratio = real["tokens_per_s"], real["ratio"]["value"]
                rate_error = signed_percent(simulated["tokens_per_s"] / rate - 1)
                beside = f"{rate:,.0f}", rate_error, f"{ratio:.3f}", signed_percent(simulated["ratio"] / ratio - 1)
            cells = name, f"{simulated['tokens_per_s']:,.0f}", *beside[:2], f"{simulated['ratio']:.3f}", *beside[2:]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _flat(text: str) -> str:
    return " ".join(text.split())


def draw(records: Sequence[Record], path: Path) -> None:
    """Draw a panel a workload: the ratios as bars with their intervals, one colour an optimizer."""
    from matplotlib.figure import Figure

    workloads = list(dict.fromkeys(record["workload"] for record in records))
    figure = Figure(figsize=(4.6 * max(1, len(workloads)), 4.2), layout="constrained", facecolor="white")
    panels = figure.subplots(1, max(1, len(workloads)), sharey=True, squeeze=False)[0]
    for axes, workload in zip(panels, workloads, strict=False):
        mine = [record for record in records if record["workload"] == workload]
        names = list(dict.fromkeys(n for r in mine for n, found in r["contenders"].items() if "ratio" in found))
        for index, record in enumerate(mine):
            _bars(axes, names, record, index, 0.8 / len(mine))
        axes.axhline(1.0, color="#333333", linewidth=0.8)
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
        axes.set_title(workload, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("throughput of ours over the rival's (emulated)")
    if handles := panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(handles=handles, fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def _bars(axes: Axes, names: Sequence[str], record: Record, index: int, width: float) -> None:
    """Draw one race's bars, beside those of the workload's other races."""
    found: list[tuple[int, dict[str, Any]]] = [
        (place, record["contenders"][name]["ratio"])
        for place, name in enumerate(names)
        if "ratio" in record["contenders"].get(name, {})
    ]
    values = [ratio["value"] for _, ratio in found]
    reach = [
        [ratio["value"] - ratio["low"] for _, ratio in found],
        [ratio["high"] - ratio["value"] for _, ratio in found],
    ]
    places = [place - 0.4 + width * (index + 0.5) for place, _ in found]
    bars = axes.bar(places, values, width, yerr=reach, capsize=2, color=f"C{index}", label=record["optimizer"])
    axes.bar_label(bars, [f"{value:.2f}" for value in values], fontsize=7, padding=2)
