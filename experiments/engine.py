"""How fast the simulator is: units a second and memory at each rung, beside bare SimPy programs of the same commands.

    python -m experiments.engine --output results/engine

The bare program is told beforehand what runs where, in which order and for how long; it only lets the time pass:
one SimPy process a lane, one event a command. The engine, which is the simulated backend without a brain, is told
what runs where and finds out how long. The whole simulator decides all of it as it goes. They run in turn in one
process, so that their ratios depend little on how busy the machine is.
"""

from __future__ import annotations

import gc
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import simpy
import typer

from executor.profiler import host_provenance
from hydrasim import Bus, Cluster, Device, Link, Shard, TrainingJob, Workload, simulate
from hydrasim.command import Command, Finished
from hydrasim.disk import make_folder, write_text
from hydrasim.mechanism import EFFECTS, Effects
from hydrasim.presets import paper_fig7
from hydrasim.profile import StatedCosts
from hydrasim.simulator import sim_backend

SIZES = (1, 2, 4)
REPEATS = 9
_POLICY = "sharded-lrtf"
_NUM_JOBS, _NUM_DEVICES, _NUM_SHARDS = 8, 4, 4
_SHARD = Shard(0.5, 1.0, parameter_bytes=1 << 20, optimizer_bytes=1 << 21, output_bytes=1 << 18, working_bytes=1 << 20)
_LINK = Link(4 << 20, latency_s=1e-3, shared="root complex")


@dataclass(frozen=True)
class Case:
    """A world at one size and one rung."""

    world: str
    size: int
    effects: Effects
    workload: Workload
    cluster: Cluster

    @property
    def name(self) -> str:
        return f"{self.world}, {self.size}x, {self.effects}"


def cases(scale: float = 1.0) -> list[Case]:
    """Return Fig. 7's world, where nothing moves, and one in which shards move all the time, at each rung."""
    found = []
    for size in SIZES:
        preset = paper_fig7(_NUM_JOBS, _NUM_DEVICES, units_scale=size / SIZES[-1] * scale)
        found.append(Case("fig7", size, "theory", preset.workload, preset.cluster))
    device = Device(14 << 20, h2d=_LINK, d2h=_LINK)  # two shards and a half
    cluster = Cluster(
        (device,) * _NUM_DEVICES,
        buses=(Bus("root complex", 8 << 20),),
        compute_slowdown=(1, 1.1, 1.2, 1.3),
        variation=0.1,
    )
    for size in SIZES:
        minibatches = max(1, round(20 * size * scale))
        jobs = tuple(TrainingJob(f"m{index}", (_SHARD,) * _NUM_SHARDS, minibatches) for index in range(_NUM_JOBS))
        found += [Case("transfers", size, effects, Workload(jobs), cluster) for effects in EFFECTS[1:]]
    return found


def bare(commands: list[Command], seconds: list[float]) -> float:
    """Let SimPy pass the time of a run's commands; return when the last one ends."""
    env = simpy.Environment()
    done = [env.event() for _ in commands]
    lanes: dict[object, list[Command]] = {}
    for command in commands:
        lanes.setdefault(command.lane_key, []).append(command)

    def walk(lane: list[Command]) -> Iterator[simpy.Event]:
        for command in lane:
            for number in command.after:
                if not done[number].processed:
                    yield done[number]
            yield env.timeout(seconds[command.number])
            done[command.number].succeed()

    for lane in lanes.values():
        env.process(walk(lane))
    env.run()
    return env.now


def engine(case: Case, commands: list[Command]) -> float:
    """Let the rung's simulated backend carry out a run's commands; return when the last one ends."""
    backend = sim_backend(case.workload, case.cluster, StatedCosts(case.workload, case.cluster), case.effects)
    backend.submit(commands)
    return max(event.end_s for event in (backend.next_event() for _ in commands) if isinstance(event, Finished))


def measure(case: Case, repeats: int = REPEATS) -> dict[str, Any]:
    """Time a case, its commands alone and its bare program in turn; find the peak memory in a run apart."""
    commands: list[Command] = []
    tracemalloc.start()
    timeline = _simulate(case, commands)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    seconds = [0.0] * len(commands)
    for span in timeline.spans:
        seconds[span.number] = span.duration_s
    ours_s, engine_s, bare_s = [], [], []
    for _ in range(repeats):
        ours_s.append(_timed(lambda: _simulate(case)))
        engine_s.append(_timed(lambda: engine(case, commands)))
        bare_s.append(_timed(lambda: bare(commands, seconds)))
    num_units = case.workload.num_units
    return {
        "world": case.world,
        "size": case.size,
        "effects": case.effects,
        "num_units": num_units,
        "num_commands": len(commands),
        "units_per_s": [num_units / second for second in ours_s],
        "bare_units_per_s": [num_units / second for second in bare_s],
        "engine_over_bare": [ours / other for ours, other in zip(engine_s, bare_s, strict=True)],
        "simulator_over_bare": [ours / other for ours, other in zip(ours_s, bare_s, strict=True)],
        "peak_bytes": peak_bytes,
    }


def _simulate(case: Case, commands: list[Command] | None = None) -> Any:
    return simulate(case.workload, case.cluster, _POLICY, effects=case.effects, commands=commands)


def _timed(run: Callable[[], object]) -> float:
    gc.collect()
    began_s = time.perf_counter()
    run()
    return time.perf_counter() - began_s


def report(rows: list[dict[str, Any]], provenance: dict[str, Any]) -> str:
    """Lay the rows out as a table; medians, with the range of the repeats in brackets."""
    lines = [
        "# The simulator's speed",
        "",
        f"Measured on {provenance['cpu']}, {provenance['num_cores']} cores, Python {provenance['python']}, "
        f"{provenance['measured_at'][:10]}; medians of {len(rows[0]['units_per_s'])} runs in turn, their range in",
        f"brackets. {_NUM_JOBS} jobs on {_NUM_DEVICES} devices, policy {_POLICY}. Bare: a SimPy program that is told",
        "every command's lane, order and duration beforehand. Engine: the simulated backend, told lanes and order.",
        "Simulator: all of it, with the orchestrator that decides what runs, what moves and where it lies. Made by",
        "`python -m experiments.engine`.",
        "",
        "| world | rung | units | commands | units/s | engine / bare | simulator / bare | peak MiB | bytes a unit |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['world']} {row['size']}x | {row['effects']} | {row['num_units']:,} | {row['num_commands']:,} "
            f"| {median(row['units_per_s']):,.0f} | {_spread(row['engine_over_bare'])} "
            f"| {_spread(row['simulator_over_bare'])} "
            f"| {row['peak_bytes'] / 2**20:.1f} | {row['peak_bytes'] / row['num_units']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main(
    output: Annotated[Path, typer.Option(help="Folder for summary.json and report.md.")] = Path("results/engine"),
    repeats: Annotated[int, typer.Option(min=1)] = REPEATS,
    scale: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the units kept.")] = 1.0,
) -> None:
    """Measure the simulator's speed and memory."""
    make_folder(output)
    rows = []
    for case in cases(scale):
        rows.append(row := measure(case, repeats))
        ratios = ", ".join(
            f"{_spread(row[f'{what}_over_bare'])} times bare ({what})" for what in ("engine", "simulator")
        )
        typer.echo(f"{case.name}: {median(row['units_per_s']):,.0f} units/s, {ratios}")
    provenance = host_provenance()
    summary = {"label": "measured", "command": "python -m experiments.engine", "provenance": provenance, "rows": rows}
    write_text(output / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_text(output / "report.md", report(rows, provenance))


if __name__ == "__main__":
    typer.run(main)
