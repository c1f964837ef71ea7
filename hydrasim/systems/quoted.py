"""What papers say of systems, quoted: bars to stand beside simulated ones, and all there is where none is simulated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SHARP = "sharp"  # our own orchestrator, where rivals are named beside it

Task = Literal["wikitext-2", "cifar-10"]


@dataclass(frozen=True)
class Quote:
    """A bar of a paper's figure: twelve models trained by one system on 8 GPUs; nothing here was simulated.

    system: as the paper names it. simulated_as: the name of the system here that stands for it, "" for none.
    makespan_s: makespan; speedup: over PyTorch Distributed, as printed; utilization_fraction: of the GPUs. source:
    where they come from.
    """

    system: str
    simulated_as: str
    task: Task
    makespan_s: float
    speedup: float
    utilization_fraction: float
    source: str
    label: str = "quoted"


_SOURCE = (
    "Hydra, Fig. 8 of the July 2021 draft (8 GTX 1080 Ti); hours and utilization by the authors' file of that figure. "
    "Other drafts differ: the April 2022 one prints 3.89 and 3.79 for GPipe, and all else the same"
)
_TASKS: tuple[Task, ...] = ("wikitext-2", "cifar-10")
_FIG8 = (  # hours, speedup and utilization in %, of each task
    ("PyTorch Distributed", "deepspeed-mp", (60.48, 1.0, 7), (17.96, 1.0, 6)),
    ("DeepSpeed MP", "deepspeed-mp", (62.99, 0.96, 6), (19.21, 0.93, 7)),
    ("DeepSpeed model+data", "deepspeed-mp-data", (35.16, 1.72, 21), (10.94, 1.64, 23)),
    ("DeepSpeed model+task", "deepspeed-mp-task", (32.87, 1.84, 26), (9.70, 1.85, 24)),
    ("FlexFlow", "", (33.78, 1.79, 22), (10.09, 1.78, 26)),
    ("GPipe", "gpipe", (12.4, 4.86, 68), (3.62, 4.95, 52)),
    ("Hydra", SHARP, (8.1, 7.46, 82), (2.50, 7.36, 81)),
)

PAPER_FIG8: tuple[Quote, ...] = tuple(
    Quote(system, simulated_as, task, hours * 3600, speedup, percent / 100, _SOURCE)
    for system, simulated_as, *bars in _FIG8
    for task, (hours, speedup, percent) in zip(_TASKS, bars, strict=True)
)


def quoted_only() -> tuple[str, ...]:
    """Return the systems that papers report on and that are not simulated here."""
    return tuple(dict.fromkeys(quote.system for quote in PAPER_FIG8 if not quote.simulated_as))
