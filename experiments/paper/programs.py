"""The paper's program for the worlds of its Fig. 7, solved by HiGHS with and without a start, in the paper's limit."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from experiments.paper.solved import Answer, Solved, digest_of, settings, stated
from hydrasim.optimum import milp
from hydrasim.optimum.problem import problem_of
from hydrasim.presets import Kind, Preset, paper_fig7
from hydrasim.profile import StatedCosts

WAYS = WARM, COLD = "MILP from LRTF", "MILP, cold"
SEED = 0  # of the draw that is solved
TIME_LIMIT_S = 100.0  # as the paper's

_VERSION = 2  # of the program


class Setting(NamedTuple):
    """A world of the figure."""

    kind: Kind
    models: int
    devices: int

    def preset(self, seed: int, units_scale: float = 1.0) -> Preset:
        """Return its jobs and devices."""
        return paper_fig7(self.models, self.devices, self.kind, seed, units_scale)


def answers(settings: Sequence[Setting], solved: Path, *, fresh: bool) -> dict[tuple[Setting, str], Answer]:
    """Return what the solver says of each setting, by setting and way; what the file lacks is solved and kept there."""
    pairs, known = list(product(settings, WAYS)), Solved(solved)
    missing = [pair for pair in pairs if fresh or key_of(*pair) not in known]
    with ProcessPoolExecutor(mp_context=get_context("forkserver")) as pool:
        for pair, answer in zip(missing, pool.map(solve, *zip(*missing, strict=True)), strict=True):
            known.keep(key_of(*pair), answer)
    return {pair: known[key_of(*pair)] for pair in pairs}


def key_of(setting: Setting, way: str) -> str:
    """Return a name for a program, with a hash of all that determines its answer."""
    preset = setting.preset(SEED)
    fields = [_VERSION, way, TIME_LIMIT_S, largest_pieces(setting), stated(preset.workload), settings(preset.cluster)]
    return f"{setting.kind}, {setting.models} models, {setting.devices} devices, {way}, {digest_of(fields)}"


def largest_pieces(setting: Setting) -> int:
    """Return into how many pieces each model's units are put together, so that the program is not refused."""
    pairs = math.comb(setting.models, 2)
    return max(
        pieces
        for pieces in range(1, milp.PIECES_PER_JOB + 1)
        if 2 * setting.models * pieces + 2 * setting.devices * pairs * pieces**2 <= milp.MAX_CONSTRAINTS
    )


def solve(setting: Setting, way: str, pieces: int | None = None, time_limit_s: float = TIME_LIMIT_S) -> Answer:
    """Return what the paper's program comes to within a limit; seconds: of the clock, building it included."""
    preset = setting.preset(SEED)
    costs = StatedCosts(preset.workload, preset.cluster)
    problem = problem_of(preset.workload, preset.cluster, costs, pieces or largest_pieces(setting))
    started = time.perf_counter()
    model = milp.solve(problem, (), time_limit_s, warm_start=way == WARM).model
    return {
        "status": model.status,
        "makespan_s": model.makespan_s,
        "bound_s": model.bound_s or 0.0,
        "num_pieces": model.num_pieces,
        "num_constraints": model.num_constraints,
        "seconds": round(time.perf_counter() - started, 1),
    }
