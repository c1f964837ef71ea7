"""The validation suite: job mixes, budgets and links on which predictions are held against reality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import starmap

import torch

from executor import CpuDevice, Prepared, TorchJob
from executor.devices import Device
from executor.partition import partition_arena, reserved_bytes
from executor.pilot import JobPilot
from experiments.models import byte_mlp, text_loader, window_byte_loss
from experiments.workloads import WORKLOADS, GptSpec, gpt_jobs
from hydrasim.errors import HydraError
from hydrasim.mechanism import OURS, Mechanism

MIB = 1 << 20
BUDGETS = {"fits": 4.0, "half": 0.5, "tight": 0.33}  # arena over the largest model's state
_CONTEXT, _BATCH_SIZE = 64, 8


@dataclass(frozen=True)
class MlpSpec:
    """One wide MLP: much state for little work, so that copies decide."""

    name: str
    width: int
    depth: int
    minibatches: int


@dataclass(frozen=True)
class CaseSpec:
    """One case: which jobs, on what, and whose plans.

    mix: a name of `MIXES`. budget: a name of `BUDGETS`. link_bytes_per_s: of each direction of a device's
    link, None for memory speed. shared: all devices sit on one bus.
    """

    name: str
    mix: str
    budget: str
    policies: tuple[str, ...]
    link_bytes_per_s: float | None = None
    shared: bool = False
    prefetch: bool = True
    num_devices: int = 2

    @property
    def mechanism(self) -> Mechanism:
        return replace(OURS, prefetch=self.prefetch)

    def prepare(self) -> Prepared:
        """Build the jobs and cut them for the case's devices."""
        jobs = [job for specs in MIXES[self.mix] for job in _jobs(specs)]
        return prepare_within_budget(jobs, self.devices, BUDGETS[self.budget])

    def devices(self, memory_bytes: int) -> list[Device]:
        device = CpuDevice(memory_bytes, self.link_bytes_per_s, "shared" if self.shared else "")
        return [device] * self.num_devices


def prepare_within_budget(
    jobs: Sequence[TorchJob], devices: Callable[[int], Sequence[Device]], fraction: float, num_threads: int = 1
) -> Prepared:
    """Cut jobs for devices that hold a fraction of the largest model's state, beside the activation peak.

    devices: makes them from bytes of memory. num_threads: of the pilots.
    """
    pilots = [JobPilot(job, num_threads) for job in jobs]
    arena_bytes = int(fraction * max(map(state_bytes, jobs)))
    parts = partition_arena(pilots, arena_bytes)
    return Prepared(tuple(parts), tuple(devices(arena_bytes + reserved_bytes(parts))))


def state_bytes(job: TorchJob) -> int:
    """Weights, gradients and AdamW's two moments, in bytes."""
    return sum(4 * parameter.numel() * parameter.element_size() for parameter in job.module.parameters())


def _gpt(name: str, width: int, depth: int, minibatches: int) -> GptSpec:
    return GptSpec(name, width, depth, width // 32, minibatches, 1, 1e-3)


_GPT3 = (_gpt("big", 256, 6, 14), _gpt("mid", 192, 4, 12), _gpt("low", 128, 4, 10))
_GPT5 = (
    _gpt("A", 192, 6, 10),
    _gpt("B", 256, 4, 8),
    _gpt("C", 128, 8, 14),
    _gpt("D", 256, 6, 10),
    _gpt("E", 192, 4, 9),
)
_GPT8 = tuple(
    starmap(
        _gpt,
        (
            ("A", 128, 4, 12), ("B", 192, 4, 8), ("C", 192, 5, 6), ("D", 128, 6, 9),
            ("E", 192, 3, 7), ("F", 192, 2, 14), ("G", 128, 3, 20), ("H", 192, 6, 6),
        ),
    )
)  # fmt: skip
_MLP4 = (
    MlpSpec("wide", 1024, 5, 26),
    MlpSpec("wider", 1280, 4, 24),
    MlpSpec("deep", 768, 10, 30),
    MlpSpec("slim", 768, 5, 34),
)
MIXES: dict[str, tuple[tuple[GptSpec | MlpSpec, ...], ...]] = {
    "three GPTs": (_GPT3,),
    "five GPTs": (_GPT5,),
    "eight GPTs": (_GPT8,),
    "four MLPs": (_MLP4,),
    "GPTs and MLPs": (_GPT3, _MLP4[:3]),
    "tiny": (WORKLOADS["tiny"],),
}
_USUAL = ("resident-lrtf", "sharded-lrtf", "shortest-remaining-first", "task-parallel")
_WIDER = ("sharded-lrtf", "random", "shortest-remaining-first", "one-model-spilling")
_MORE = ("hydra-released", "round-robin", "model-parallel", "fifo")
SUITES: dict[str, tuple[CaseSpec, ...]] = {
    "standard": (
        CaseSpec("gpt3-fits", "three GPTs", "fits", _USUAL),
        CaseSpec("gpt5-fits", "five GPTs", "fits", _WIDER),
        CaseSpec("gpt5-half", "five GPTs", "half", _USUAL),
        CaseSpec("gpt5-tight", "five GPTs", "tight", _WIDER),
        CaseSpec("gpt8-half", "eight GPTs", "half", _MORE),
        CaseSpec("mlp4-tight", "four MLPs", "tight", _USUAL),
        CaseSpec("mixed6-half", "GPTs and MLPs", "half", _MORE),
        CaseSpec("gpt5-half-no-prefetch", "five GPTs", "half", _WIDER, prefetch=False),
        CaseSpec("gpt5-half-slow-link", "five GPTs", "half", _USUAL, 200 * MIB),
        CaseSpec("gpt3-tight-slow-link-no-prefetch", "three GPTs", "tight", _WIDER, 400 * MIB, prefetch=False),
        CaseSpec("gpt8-tight-fast-link", "eight GPTs", "tight", _USUAL, 1500 * MIB),
        CaseSpec("gpt5-tight-shared-link", "five GPTs", "tight", _MORE, 600 * MIB, shared=True),
        CaseSpec("mlp4-half-shared-link", "four MLPs", "half", _WIDER, 2500 * MIB, shared=True),
        CaseSpec("mixed6-tight-link", "GPTs and MLPs", "tight", _USUAL, 3000 * MIB),
    ),
    "smoke": (
        CaseSpec("tiny-half", "tiny", "half", ("resident-lrtf", "one-model-spilling")),
        CaseSpec("tiny-half-shared-link", "tiny", "half", ("fifo", "task-parallel"), 20 * MIB, shared=True),
    ),
}


def find_cases(suite: str, name: str = "") -> tuple[CaseSpec, ...]:
    """Return a suite's cases, or the one of that name.

    Raises:
        HydraError: there is no such suite or case.
    """
    if suite not in SUITES:
        raise HydraError(f"no suite is named {suite!r}; there are {', '.join(SUITES)}.")
    cases = [case for case in SUITES[suite] if name in ("", case.name)]
    if not cases:
        raise HydraError(f"suite {suite!r} has no case {name!r}; it has {', '.join(c.name for c in SUITES[suite])}.")
    return tuple(cases)


def _jobs(specs: Sequence[GptSpec | MlpSpec]) -> list[TorchJob]:
    gpts = [spec for spec in specs if isinstance(spec, GptSpec)]
    mlps = [spec for spec in specs if isinstance(spec, MlpSpec)]
    return gpt_jobs(tuple(gpts)) + [_mlp_job(spec, seed) for seed, spec in enumerate(mlps, 50)]


def _mlp_job(spec: MlpSpec, seed: int) -> TorchJob:
    return TorchJob(
        spec.name,
        byte_mlp(spec.width, spec.depth, context=_CONTEXT, seed=seed),
        window_byte_loss,
        text_loader(spec.minibatches, _BATCH_SIZE, _CONTEXT),
        partial(torch.optim.AdamW, lr=1e-3),
        seed=seed,
    )
