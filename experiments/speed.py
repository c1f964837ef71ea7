"""How fast the executor is: ours beside the in-memory ideal, on one device and on two, and what orchestration takes.

python -m experiments.speed [--smoke] [--optimizer both] [--pairs 9] -o results/executor

All run in turn on the same jobs; losses are held against the reference loop's before anything is timed. A race leaves
a file in races/; summary.json and report.md follow from those that lie there.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from experiments.peers.__main__ import run_race
from experiments.peers.contender import Task
from experiments.peers.ratios import ratio_of_pairs
from experiments.peers.record import Record, read_records, write_record
from experiments.peers.registry import OURS
from experiments.peers.team import Limits
from experiments.peers.workloads import PeerWorkload, find_workload
from experiments.report import percent
from hydrasim.disk import make_folder, write_text
from hydrasim.errors import HydraError

_OPTIMIZERS = ("adamw", "sgd")
_SCALED, _FITTING = "W", "W-fits"
_RIVALS = {
    _SCALED: ("ideal", "ours-host-updates", "ours-searched", "ours-alone", "ours-searched-alone", "ideal-alone"),
    _FITTING: ("ideal",),
}
# Of a job in a timed run: few where one device takes twice as long, more where state moves just at beginning and end.
_MINIBATCHES = {_SCALED: 3, _FITTING: 12}
_MOST_RIVALS = 3  # at a time, with ours; seven of them fill 24 GiB
_SMOKE_PAIRS = 1
_GOALS: dict[str, Any] = {
    "to_ideal": {_SCALED: 0.90, _FITTING: 0.97},
    "alone_to_ideal": 0.90,
    "scaling": 1.9,
    "orchestration": 0.01,
}
_ROWS = (  # of the summary's ratios: what they are called, and the goal
    ("alone_ratio_to_ideal", f"to the ideal, {_SCALED}, one device", _GOALS["alone_to_ideal"]),
    ("scaling_1_to_2", f"two devices over one, {_SCALED}", _GOALS["scaling"]),
    ("device_over_host_updates", f"updates on devices over those on the host, {_SCALED}, two devices", None),
    ("search_over_greedy", f"searched cuts over greedy ones, {_SCALED}, two devices", None),
    ("search_over_greedy_alone", f"searched cuts over greedy ones, {_SCALED}, one device", None),
)
_CORE_S = ("training", "units", "copies", "rest", "orchestrator")
_ABOUT = """\
Emulated: devices are CPU cores, copies go at memory speed. *To the ideal*: throughput over that of every model whole in
memory, trained by the plain loop, a process a core. *W* lets a device hold half of a state beside the activation
peak, *W-fits* twice a state. Medians of runs side by side, and their 95 % bootstrap intervals. *Orchestration*:
the orchestrator's CPU seconds, and the devices' mean idle seconds while a unit was ready, over the makespan. *Core
seconds*: of the threads that train, or of units, of copies, of the rest of the workers, and of the orchestrator."""


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the races and their summary.")] = Path(
        "results/executor"
    ),
    optimizer: Annotated[str, typer.Option(help=f"{', '.join(_OPTIMIZERS)}, or both.")] = "both",
    workload: Annotated[str, typer.Option(help=f"{', '.join(_RIVALS)}, or all.")] = "all",
    pairs: Annotated[int, typer.Option(min=1, help="Rounds: everybody runs once in each.")] = 9,
    smoke: Annotated[bool, typer.Option("--smoke", help="Tiny models: that it works, no numbers.")] = False,
) -> None:
    """Measure the executor beside the in-memory ideal; an hour, and they want the machine for themselves."""
    command = shlex.join(["python", "-m", "experiments.speed", *sys.argv[1:]])
    try:
        make_folder(output)
        for name in _asked(workload, tuple(_RIVALS)):
            for flavour in _asked(optimizer, _OPTIMIZERS):
                task = Task(_workload(name, smoke=smoke), flavour)
                rounds = _SMOKE_PAIRS if smoke else pairs
                record = run_race(task, _RIVALS[name], rounds, command, is_smoke=smoke, limits=Limits())
                write_record(record, output)
                write_results(read_records(output, is_smoke=smoke), output, command)
    except HydraError as reason:
        typer.echo(str(reason), err=True)
        raise typer.Exit(2) from None
    typer.echo((output / "report.md").read_text())


def summary(records: Sequence[Record], command: str) -> dict[str, Any]:
    """Return the figures of all races, by optimizer and workload; those of one device and of scaling from W's."""
    found: dict[str, Any] = {
        "label": "emulated", "command": command, "goals": _GOALS, "ratio_to_ideal": {}, "alone_ratio_to_ideal": {},
        "scaling_1_to_2": {}, "device_over_host_updates": {}, "search_over_greedy": {},
        "search_over_greedy_alone": {}, "orchestration_fraction": {},
    }  # fmt: skip
    for record in records:
        flavour, name, contenders = record["optimizer"], record["workload"], record["contenders"]
        found["ratio_to_ideal"].setdefault(flavour, {})[name] = contenders["ideal"].get("ratio")
        shares = {f"{name}, two devices": contenders[OURS]["facts"]["orchestration_fraction"]}
        if "ours-alone" in contenders:
            alone = contenders["ours-alone"]
            found["alone_ratio_to_ideal"][flavour] = _ratio(alone, contenders["ideal-alone"])
            found["scaling_1_to_2"][flavour] = alone.get("ratio")
            found["device_over_host_updates"][flavour] = contenders["ours-host-updates"].get("ratio")
            shares[f"{name}, one device"] = alone["facts"].get("orchestration_fraction")
        if "ours-searched" in contenders:
            both, alone = contenders["ours-searched"], contenders["ours-searched-alone"]
            found["search_over_greedy"][flavour] = _inverse(both.get("ratio"))
            found["search_over_greedy_alone"][flavour] = _ratio(alone, contenders["ours-alone"])
        found["orchestration_fraction"].setdefault(flavour, {}).update(shares)
    return found | {"races": list(records)}


def _ratio(one: Any, other: Any) -> dict[str, float] | None:
    """Return the throughput of one contender over another's, by the rounds in which both ran."""
    pairs = list(zip(one["seconds"], other["seconds"], strict=False))
    return asdict(ratio_of_pairs(pairs)) if pairs else None


def _inverse(ratio: dict[str, float] | None) -> dict[str, float] | None:
    """Turn ours over another way into that over ours."""
    if ratio is None:
        return None
    turned = {"value": 1 / ratio["value"], "low": 1 / ratio["high"], "high": 1 / ratio["low"]}
    return {**turned, "num_pairs": ratio["num_pairs"]}


def write_results(records: Sequence[Record], folder: Path, command: str) -> None:
    """Write summary.json and report.md."""
    found = summary(records, command)
    write_text(folder / "summary.json", json.dumps(found, indent=1) + "\n")
    write_text(folder / "report.md", report_text(found))


def report_text(found: dict[str, Any]) -> str:
    """Return the summary as a page."""
    lines = ["# The executor's speed", "", _ABOUT, "", f"Made by `{found['command']}`.", ""]
    lines += ["| | optimizer | value | 95 % interval | pairs | goal |", "|---|---|---|---|---|---|"]
    for flavour, by_workload in found["ratio_to_ideal"].items():
        for name, ratio in by_workload.items():
            lines += _row(f"to the ideal, {name}, two devices", flavour, ratio, _GOALS["to_ideal"][name])
    for key, name, goal in _ROWS:
        for flavour, ratio in found[key].items():
            lines += _row(name, flavour, ratio, goal)
    for flavour, shares in found["orchestration_fraction"].items():
        for name, share in shares.items():
            if share is not None:
                lines.append(f"| orchestration, {name} | {flavour} | {percent(share, 2)} | | | at most 1 % |")
    for record in found["races"]:
        host = record["provenance"]
        lines += ["", f"{record['workload']}, {record['optimizer']}: {host['cpu']}, {host['measured_at']}."]
        lines += _core_table(record)
    return "\n".join(lines) + "\n"


def _core_table(record: Record) -> list[str]:
    """Return a table of the core seconds that a run took, of each contender the median by what took them."""
    lines = ["", "| core seconds of a run | " + " | ".join(_CORE_S) + " | all |", "|---" * (len(_CORE_S) + 2) + "|"]
    for name, entry in record["contenders"].items():
        if entry.get("core_s"):
            medians = [median([run.get(what, 0.0) for run in entry["core_s"]]) for what in _CORE_S]
            cells = [f"{seconds:.2f}" if seconds else "" for seconds in (*medians, sum(medians))]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines if len(lines) > 3 else []


def _row(name: str, flavour: str, ratio: dict[str, float] | None, goal: float | None) -> list[str]:
    if ratio is None:
        return []
    reach = f"{ratio['low']:.3f} to {ratio['high']:.3f}"
    return [f"| {name} | {flavour} | **{ratio['value']:.3f}** | {reach} | {ratio['num_pairs']} | {goal or ''} |"]


def _workload(name: str, *, smoke: bool) -> PeerWorkload:
    """Return a workload for this race, which is not simulated."""
    workload, count = find_workload(name, smoke=smoke), 1 if smoke else _MINIBATCHES[name]
    specs = tuple(replace(spec, minibatches=count) for spec in workload.specs)
    return replace(workload, specs=specs, is_simulated=False, most_rivals=_MOST_RIVALS)


def _asked(name: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return what was asked for by name.

    Raises:
        HydraError: there is none.
    """
    if name in ("all", "both"):
        return known
    if name not in known:
        raise HydraError(f"{name!r} is unknown; there are {', '.join(known)}, or all.")
    return (name,)


if __name__ == "__main__":
    typer.run(main)
