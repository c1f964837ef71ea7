"""Random simulations in this process: each must end in a sound timeline or in one clear error."""

from __future__ import annotations

import math
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from experiments.hostile.policies import BAD_POLICIES
from hydrasim import (
    Bus,
    Cluster,
    Device,
    HydraError,
    Link,
    Mechanism,
    Shard,
    ShardUnit,
    Timeline,
    TrainingJob,
    Workload,
)
from hydrasim import simulate as run_simulation
from hydrasim.command import Command
from hydrasim.dataflow import aligned, unit_bytes
from hydrasim.mechanism import EFFECTS, MECHANISMS
from hydrasim.optimum.bounds import lower_bounds
from hydrasim.planning import make_plan
from hydrasim.policies import policies
from hydrasim.profile import StatedCosts
from hydrasim.workload import Phase

TIGHT_FRACTION = 0.78  # of all simulations: feasible, three or more jobs of two or more shards, tight memory
_MAX_LINES, _MAX_LETTERS = 12, 2000  # of an error's message
_BYTES = (0, 1, 64, 100, 1000, 4096)
_NONSENSE = (float("nan"), float("inf"), -1, -1e-300, 10**30, 1e300, 5e-324, 0)


@dataclass(frozen=True)
class Simulation:
    """What came of one. problem: empty, or what is wrong with it, a traceback as a rule."""

    kind: str
    num_jobs: int
    is_tight: bool
    error: str = ""
    problem: str = ""

    @property
    def is_feasible(self) -> bool:
        return not self.error and not self.problem


@dataclass
class _World:
    workload: Workload
    cluster: Cluster
    mechanism: Mechanism
    policy: Any
    effects: Any
    seed: int
    is_tight: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def simulate_one(seed: int, index: int) -> Simulation:
    """Make the random world of that number and simulate it."""
    rng = Random(f"{seed} simulation {index}")
    kind = "tight" if rng.random() < TIGHT_FRACTION else rng.choice(sorted(_SPOILERS))
    num_jobs, is_tight = 0, False
    try:
        world = _world(rng, least_jobs=3 if kind == "tight" else 1, least_shards=2 if kind == "tight" else 1)
        world = _SPOILERS.get(kind, lambda world, rng: world)(world, rng)
        num_jobs, is_tight = len(world.workload.jobs), kind == "tight"
        problem = _check(world, _run(world, rng))
        return Simulation(kind, num_jobs, is_tight, problem=problem)
    except HydraError as error:
        return Simulation(kind, num_jobs, is_tight, type(error).__name__, _check_message(str(error)))
    except Exception:
        return Simulation(kind, num_jobs, is_tight, problem=traceback.format_exc())


def _run(world: _World, rng: Random) -> Timeline:
    """Simulate dynamically, or by way of a plan."""
    settings = {"mechanism": world.mechanism, "effects": world.effects, "seed": world.seed, **world.options}
    if "beliefs" not in settings and rng.random() < 0.25:
        return make_plan(world.workload, world.cluster, world.policy, **settings)[1]
    return run_simulation(world.workload, world.cluster, world.policy, **settings)


def _check(world: _World, timeline: Timeline) -> str:
    """Say what is wrong with a timeline: units, lanes, bounds."""
    units = Counter(span.unit for span in timeline.spans if span.kind == "compute")
    if set(units.values()) != {1} or len(units) != world.workload.num_units:
        return f"{len(units)} units ran, {sum(units.values())} times; there are {world.workload.num_units}"
    if not all(0 <= span.start_s <= span.end_s < math.inf for span in timeline.spans):
        return "a span ends before it starts, or at no time"
    free_s: dict[tuple[int, str], float] = {}
    for span in sorted(timeline.spans, key=lambda span: span.number):
        if span.device >= 0 and span.start_s < free_s.get((span.device, span.lane), 0.0):
            return f"{span.unit} starts while its lane is busy"
        free_s[span.device, span.lane] = span.end_s
    costs = world.options.get("costs") or StatedCosts(world.workload, world.cluster)
    bounds = lower_bounds(world.workload, world.cluster, costs, world.effects)
    low_s = max(bounds.values())
    if timeline.makespan_s < low_s * (1 - 1e-9):
        return f"the makespan is {timeline.makespan_s} s, the bound {low_s} s"
    return ""


def _check_message(text: str) -> str:
    if not text or len(text) > _MAX_LETTERS or text.count("\n") >= _MAX_LINES or "Traceback" in text:
        return f"not one clear message: {text[:_MAX_LETTERS]!r}"
    return ""


def _world(rng: Random, least_jobs: int, least_shards: int) -> _World:
    """Draw a world whose devices hold its neediest unit, and up to half as much again."""
    jobs = tuple(_job(rng, f"j{order}", least_shards) for order in range(rng.randint(least_jobs, 6)))
    workload, mechanism = Workload(jobs), _mechanism(rng)
    need = math.ceil(_neediest_bytes(workload) / (1 - (mechanism.loading_zone_fraction or 0.0)))
    least = aligned(workload.working_bytes) + aligned(need) + 64
    devices = [
        Device(
            int(least * rng.uniform(1.0, 1.5)),
            rng.choice((1.0, 0.5, 3.0)),
            _link(rng),
            _link(rng),
            duplex=rng.choice(("full", "half")),
            on_host=rng.random() < 0.3,
        )
        for _ in range(rng.randint(1, 4))
    ]
    policy = rng.choice(sorted(policies()))
    return _World(
        workload,
        Cluster(tuple(devices), rng.choice((None, 1, 2)), (Bus("root", rng.choice((1e2, 1e5, math.inf))),)),
        mechanism,
        policy,
        rng.choice(EFFECTS),
        rng.randrange(1000),
    )


def _job(rng: Random, name: str, least_shards: int) -> TrainingJob:
    shards = tuple(
        Shard(rng.choice((0.0, 0.1, 1.0, rng.random())), rng.random() * 3, *(rng.choice(_BYTES) for _ in range(4)))
        for _ in range(rng.randint(least_shards, 5))
    )
    return TrainingJob(
        name, shards, rng.randint(1, 3), rng.randint(1, 2), rng.random() < 0.7, rng.choice(("recompute", "keep")),
        rng.choice(_BYTES), rng.choice(_BYTES), rng.choice((0.0, 0.2)),
    )  # fmt: skip


def _link(rng: Random) -> Link:
    speed, pageable = rng.choice((math.inf, 100.0, 4096.0, 1e6)), rng.choice((None, 50.0))
    return Link(speed, rng.choice((0.0, 0.01, 1.0)), pageable, rng.choice(("", "root")))


def _mechanism(rng: Random) -> Mechanism:
    if rng.random() < 0.4:
        return replace(rng.choice(list(MECHANISMS.values())), prefetch=rng.random() < 0.8)
    flip = lambda: rng.random() < 0.5  # noqa: E731
    return Mechanism(
        flip(), rng.choice((None, 0.0, 0.05, 0.5)), flip(), rng.choice(("all", "none", "released")),
        rng.choice(("auto", "lazy", "through")), flip(), flip(), flip(), flip(),
    )  # fmt: skip


def _neediest_bytes(workload: Workload) -> int:
    return max(
        unit_bytes(job, ShardUnit(job.name, phase, shard, 0))
        for job in workload.jobs
        for shard in range(len(job.shards))
        for phase in Phase
    )


class _Nonsense:
    """Costs that are mostly no times at all."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def _draw(self, *what: object) -> Any:
        rng = Random(f"{self._seed} {what}")
        return rng.choice(_NONSENSE) if rng.random() < 0.3 else rng.random()

    def compute_s(self, unit: ShardUnit, device: int, mode: str | None = None) -> float:
        return self._draw(unit[:3], device, mode)

    def copy_s(self, nbytes: int, device: int, direction: str) -> float:
        return self._draw(nbytes, device, direction)

    def fetch_s(self, job: str) -> float:
        return self._draw(job)

    def update_s(self, job: str, shard: int) -> float:
        return self._draw(job, shard)

    def dispatch_s(self) -> float:
        return self._draw("dispatch")

    def slowdown(self, job: str, num_computing: int) -> float:
        return 1.0 + self._draw("slowdown", job, num_computing)

    def variation(self, command: Command) -> float:
        return self._draw("variation", command.number)


def _with_devices(world: _World, **changes: Any) -> _World:
    devices = tuple(replace(device, **changes) for device in world.cluster.devices)
    return replace(world, cluster=replace(world.cluster, devices=devices))


def _with_job(world: _World, **changes: Any) -> _World:
    first, *others = world.workload.jobs
    return replace(world, workload=Workload((replace(first, **changes), *others)))


def _with_shard(world: _World, **changes: Any) -> _World:
    shards = world.workload.jobs[0].shards
    return _with_job(world, shards=(replace(shards[0], **changes), *shards[1:]))


_FIELDS = ("forward_s", "backward_s", "parameter_bytes", "working_bytes")
_SPOILERS: dict[str, Callable[[_World, Random], _World]] = {
    "roomy": lambda world, rng: _with_devices(world, memory_bytes=1 << 30),
    "too small": lambda world, rng: _with_devices(world, memory_bytes=rng.randint(1, 4096)),
    "bad policy": lambda world, rng: replace(world, policy=rng.choice(BAD_POLICIES)()),
    "unknown policy": lambda world, rng: replace(world, policy=rng.choice(("", "fifo ", "x.py:Y", "FIFO", "\x00"))),
    "unknown effects": lambda world, rng: replace(world, effects=rng.choice(("", "Theory", None, 7))),
    "no devices": lambda world, rng: replace(world, cluster=Cluster(())),
    "no jobs": lambda world, rng: replace(world, workload=Workload(())),
    "bad seconds or bytes": lambda world, rng: _with_shard(world, **{rng.choice(_FIELDS): rng.choice(_NONSENSE)}),
    "bad counts": lambda world, rng: _with_job(world, **{rng.choice(("minibatches", "epochs")): rng.choice((0, -3))}),
    "endless": lambda world, rng: _with_job(world, minibatches=10 ** rng.randint(8, 40)),
    "bad speed": lambda world, rng: _with_devices(world, speed=rng.choice(_NONSENSE)),
    "bad link": lambda world, rng: _with_devices(
        world, h2d=Link(rng.choice(_NONSENSE), rng.choice((0.0, *_NONSENSE)))
    ),
    "bad zone": lambda world, rng: replace(
        world, mechanism=replace(world.mechanism, loading_zone_fraction=rng.choice((float("nan"), -0.1, 1.0, 7)))
    ),
    "wrong costs": lambda world, rng: replace(world, options={"costs": _Nonsense(rng.randrange(1 << 30))}),
    "wrong beliefs": lambda world, rng: replace(world, options={"beliefs": _Nonsense(rng.randrange(1 << 30))}),
}  # fmt: skip
