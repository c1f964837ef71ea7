"""How far simulated rivals may be trusted: their simulated throughput over that of their real miniatures, in races."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hydrasim.disk import read_text
from hydrasim.errors import HydraError

RACES = Path(__file__).resolve().parent.parent / "results" / "rivals" / "summary.json"


def caution(rivals: Sequence[str], races: Path = RACES) -> str:
    """Return a sentence for whatever shows these rivals simulated, "" for none.

    rivals: as races call them. races: the summary that says what was measured.

    Raises:
        HydraError: it cannot be read.
    """
    if not rivals:
        return ""
    found = json.loads(read_text(races, HydraError))["simulation"] if races.exists() else {}
    told = [f"{name} {_reach(found[name])}" for name in rivals if name in found]
    told += [f"{name} not raced" for name in rivals if name not in found]
    return (
        "Simulated rivals were raced as real miniatures on emulated devices (results/rivals): simulated over measured "
        f"throughput is {', '.join(told)}. Above 1 the simulation flatters the rival."
    )


def _reach(simulated: dict[str, float]) -> str:
    low, high = f"{simulated['low']:.2f}", f"{simulated['high']:.2f}"
    return low if low == high else f"{low} to {high}"
