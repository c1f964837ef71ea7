"""Whether what the partitioner accepts ever runs out of memory: random models at the tightest budgets, executed.

    python -m experiments.memory --models 200 --output results/memory

One to four models share one to three emulated devices of unlike size. The smallest device gets the least
memory for which the cuts succeed, and up to 10 % more. A random policy makes a plan, and the plan runs.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import typer

from executor import CpuDevice, DevicePool, Prepared, TorchJob, prepare, train
from executor.pilot import MARGIN_FRACTION, JobPilot
from experiments.bisection import smallest_memory
from experiments.memory_report import write_report
from experiments.outside import outside_peak_fractions
from experiments.random_models import draw_job
from experiments.recording import RecordingDevice
from hydrasim.errors import HydraError, ShardTooLarge
from hydrasim.mechanism import MECHANISMS
from hydrasim.plan import Plan
from hydrasim.planning import make_plan
from hydrasim.policies import policies

HEADROOM_FRACTION = 0.10  # at most so much above the smallest memory that is accepted
_REFUSAL = re.compile(r"layer \d+ of '.+' needs [\d,]+ bytes .* ([\d,]+) bytes are enough", re.DOTALL)


@dataclass(frozen=True)
class World:
    """One run to try. seed: of its first model; the others have the seeds that follow.

    headroom_fraction: of the smallest device above the minimum. sizes: of the devices, relative to the
    smallest one's.
    """

    seed: int
    num_models: int
    num_minibatches: int
    policy: str
    mechanism: str
    headroom_fraction: float
    sizes: tuple[float, ...]

    def jobs(self) -> list[TorchJob]:
        """Return the models to train."""
        return [draw_job(self.seed + index, self.num_minibatches) for index in range(self.num_models)]


@dataclass
class Outcome:
    """What became of a world. minimum_bytes: the least memory for which its models could be cut.

    refusal: what `prepare` says one byte below; refusal_right: it says how much is enough, and that is.
    error: why the run ended early. predicted_bytes, used_bytes: per device, blocks in the arena, constant
    tensors and the activation peak. pilot_ratios: of each shard, the measured activation peak over what
    the pilot saw, without its margin.
    """

    world: World
    minimum_bytes: int = 0
    memory_bytes: tuple[int, ...] = ()
    num_shards: tuple[int, ...] = ()
    num_units: int = 0
    refusal: str = ""
    refusal_right: bool = False
    error: str = ""
    breach: bool = False
    predicted_bytes: tuple[int, ...] = ()
    used_bytes: tuple[int, ...] = ()
    pilot_ratios: list[float] = field(default_factory=list)

    @property
    def error_fractions(self) -> list[float]:
        """Predicted over measured bytes, minus one, of every device that something ran on."""
        return [a / b - 1 for a, b in zip(self.predicted_bytes, self.used_bytes, strict=True) if b]

    @property
    def used_fractions(self) -> list[float]:
        """Measured bytes over the device's memory, of every device that something ran on."""
        return [a / b for a, b in zip(self.used_bytes, self.memory_bytes, strict=True) if a]


def draw_world(seed: int, max_models: int = 4) -> World:
    """Draw the run whose first model has this seed."""
    rng = random.Random(f"world {seed}")
    sizes = [1.0] + [rng.choice([1.0, rng.uniform(1.0, 3.0)]) for _ in range(rng.randint(0, 2))]
    rng.shuffle(sizes)
    return World(
        seed,
        min(max_models, rng.randint(1, 4)),
        rng.choice([2, 3, 7]),
        rng.choice(sorted(policies())),
        rng.choice(["ours", "ours", *MECHANISMS]),
        rng.uniform(0.0, HEADROOM_FRACTION),
        tuple(sizes),
    )


def draw_worlds(num_models: int, seed: int) -> list[World]:
    """Draw runs until they have so many models."""
    worlds: list[World] = []
    left = num_models
    while left:
        worlds.append(draw_world(seed + num_models - left, left))
        left -= worlds[-1].num_models
    return worlds


class Lender:
    """Worker processes by number of devices, lent to one run after another. folder: for devices' diaries."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pools: dict[int, DevicePool] = {}

    def devices(self, memory_bytes: Sequence[int]) -> list[RecordingDevice]:
        """Return devices of these sizes."""
        return [
            RecordingDevice(nbytes, path=str(self._folder / f"device-{index}"))
            for index, nbytes in enumerate(memory_bytes)
        ]

    def lend(self, devices: Sequence[RecordingDevice]) -> DevicePool:
        """Return workers for these devices: without links any worker can pass for any device."""
        pool = self._pools.setdefault(len(devices), DevicePool(devices))
        pool.devices = tuple(devices)
        return pool

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


@contextmanager
def lending() -> Iterator[Lender]:
    """Lend workers for as long as this is open."""
    with tempfile.TemporaryDirectory() as folder:
        lender = Lender(Path(folder))
        try:
            yield lender
        finally:
            lender.close()


def try_world(world: World, lender: Lender) -> Outcome:
    """Cut, plan and run a world's models at its tight budget; what goes wrong is in the outcome."""
    outcome = Outcome(world)
    try:
        _try(outcome, lender)
    except HydraError as reason:
        outcome.error = f"{type(reason).__name__}: {reason}"
        # Whatever `prepare` accepted must run, so a refusal after it is a breach too.
        outcome.breach = bool(outcome.num_shards) and ("Budget" in str(reason) or isinstance(reason, ShardTooLarge))
    return outcome


def _try(outcome: Outcome, lender: Lender) -> None:
    world = outcome.world
    jobs, mechanism = world.jobs(), MECHANISMS[world.mechanism]
    pilots = [JobPilot(job) for job in jobs]

    def cut(*memory_bytes: int) -> Prepared:
        devices = [CpuDevice(nbytes) for nbytes in memory_bytes]
        return prepare(jobs, devices, loading_zone_fraction=mechanism.loading_zone_fraction, pilots=pilots)

    outcome.minimum_bytes = smallest_memory(cut)
    try:
        cut(outcome.minimum_bytes - 1)
    except ShardTooLarge as reason:
        outcome.refusal = str(reason)
    if (stated := _REFUSAL.search(outcome.refusal)) is not None:
        outcome.refusal_right = bool(cut(int(stated[1].replace(",", ""))))
    smallest = int(outcome.minimum_bytes * (1 + world.headroom_fraction))
    outcome.memory_bytes = tuple(int(size * smallest) for size in world.sizes)
    devices = lender.devices(outcome.memory_bytes)
    prepared = replace(cut(*outcome.memory_bytes), devices=tuple(devices))
    outcome.num_shards = tuple(len(part.shards) for part in prepared.partitions)
    outcome.num_units = prepared.workload.num_units
    plan, planned = make_plan(prepared.workload, prepared.cluster, world.policy, mechanism=mechanism, seed=world.seed)
    pool = lender.lend(devices)
    result = train(prepared, plan=plan, mechanism=mechanism, pool=pool, update_models=False, strict=True)
    retained_bytes = sum(part.retained_bytes for part in prepared.partitions)  # the run counts it as alive
    constant_bytes = sum(part.constant_bytes for part in prepared.partitions)
    outcome.predicted_bytes = tuple(constant_bytes + nbytes for nbytes in planned.header["peak_bytes"])
    outcome.used_bytes = tuple(
        constant_bytes - retained_bytes + nbytes if nbytes else 0 for nbytes in result.peak_bytes
    )
    outcome.breach = any(
        used > promised for used, promised in zip(outcome.used_bytes, outcome.memory_bytes, strict=True)
    )
    outcome.pilot_ratios = pilot_ratios(prepared, plan, [device.unit_peaks() for device in devices])


def pilot_ratios(prepared: Prepared, plan: Plan, peaks: Sequence[Sequence[int]]) -> list[float]:
    """Return measured over piloted activation peak of every shard: its costliest unit's, wherever that ran.

    peaks: of each device's units, in the plan's order; what layers retain may be among them.
    """
    shards = {(part.job.name, i): shard for part in prepared.partitions for i, shard in enumerate(part.shards)}
    retained = sum(shard.retained_bytes for shard in shards.values())
    measured = dict.fromkeys(shards, 0)
    for steps, found in zip(plan.devices, peaks, strict=True):
        for step, peak in zip(steps, found, strict=True):
            key = step.unit.job, step.unit.shard
            measured[key] = max(measured[key], peak)
    return [
        measured[key] / (shard.working_bytes / (1 + MARGIN_FRACTION) + retained - shard.retained_bytes)
        for key, shard in shards.items()
    ]


def run(worlds: Sequence[World], on_outcome: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
    """Try worlds one after another."""
    outcomes = []
    with lending() as lender:
        for world in worlds:
            outcomes.append(try_world(world, lender))
            on_outcome(outcomes[-1])
    return outcomes


def main(
    models: Annotated[int, typer.Option(min=1, help="How many models to draw.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the first model; the others have those that follow.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("results/memory"),
    only: Annotated[int | None, typer.Option(help="Rerun the run of this seed alone, and write nothing.")] = None,
) -> None:
    """Try what the partitioner accepts, and write a report."""
    if only is not None:
        (outcome,) = run([draw_world(only)])
        typer.echo(json.dumps(asdict(outcome), indent=1))
        raise typer.Exit(bool(outcome.error or outcome.breach))
    worlds = draw_worlds(models, seed)
    with _bar(models) as advance:
        outcomes = run(worlds, lambda outcome: advance(outcome.world.num_models))
    command = f"python -m experiments.memory --models {models} --seed {seed}"
    found = write_report(outcomes, outside_peak_fractions(), output, command)
    typer.echo(
        f"{found['num_breaches']} breaches, {found['num_other_failures']} other failures "
        f"in {found['num_runs']} runs of {models} models; {output / 'report.md'}"
    )
    if found["failures"]:
        raise typer.Exit(1)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("models", total=total)
        yield lambda count: progress.advance(task, count)


if __name__ == "__main__":
    typer.run(main)
