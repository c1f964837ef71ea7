"""The memory campaign's figures, as JSON, text and a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from executor.pilot import MARGIN_FRACTION
from hydrasim.disk import write_text

if TYPE_CHECKING:
    from experiments.memory import Outcome


def summary(outcomes: Sequence[Outcome], outside: Mapping[str, float]) -> dict[str, Any]:
    """Return the campaign's figures.

    num_refused: runs whose models were refused with one byte less; num_refusals_right: of those, how many
    said layer, numbers and an amount of memory that then was enough. needed_margin_fraction: what the
    pilot's margin had to be for no unit to exceed its own shard's pilot. outside_peak_fraction: for
    information, a worker's memory as the system sees it over its budget, by model.
    """
    ran = [outcome for outcome in outcomes if outcome.used_bytes]
    errors = [error for outcome in ran for error in outcome.error_fractions]
    ratios = [ratio for outcome in ran for ratio in outcome.pilot_ratios]
    shards = [count for outcome in outcomes for count in outcome.num_shards]
    return {
        "label": "emulated",
        "num_models": sum(outcome.world.num_models for outcome in outcomes),
        "num_runs": len(outcomes),
        "num_units": sum(outcome.num_units for outcome in ran),
        "num_breaches": sum(outcome.breach for outcome in outcomes),
        "num_other_failures": sum(bool(outcome.error) and not outcome.breach for outcome in outcomes),
        "num_refused": sum(bool(outcome.refusal) for outcome in outcomes),
        "num_refusals_right": sum(outcome.refusal_right for outcome in outcomes),
        "num_mixed_clusters": sum(len(set(outcome.memory_bytes)) > 1 for outcome in ran),
        "num_models_cut": sum(count > 1 for count in shards),
        "num_shards": _spread(shards),
        "margin_fraction": MARGIN_FRACTION,
        "needed_margin_fraction": max([0.0, *(ratio - 1 for ratio in ratios)]),
        "measured_over_piloted": _spread(ratios),
        "memory_error_fraction": _spread(errors),
        "used_over_promised": _spread([ratio for outcome in ran for ratio in outcome.used_fractions]),
        "outside_peak_fraction": dict(outside),
        "failures": [
            {"seed": outcome.world.seed, "breach": outcome.breach, "error": outcome.error}
            for outcome in outcomes
            if outcome.error or outcome.breach or not outcome.refusal_right
        ],
        "torch": torch.__version__,
        "num_cores": len(os.sched_getaffinity(0)),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)} if values else {}


def write_report(
    outcomes: Sequence[Outcome], outside: Mapping[str, float], folder: Path, command: str
) -> dict[str, Any]:
    """Write summary.json, report.md, runs.jsonl and used.png; return the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    found = summary(outcomes, outside) | {"command": command}
    write_text(folder / "summary.json", json.dumps(found, indent=1) + "\n")
    write_text(folder / "report.md", _text(found))
    write_text(folder / "runs.jsonl", "".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes))
    _draw(outcomes, folder / "used.png")
    return found


def _text(found: dict[str, Any]) -> str:
    ratio, error, used = (
        found[name] or {"min": 0, "median": 0, "max": 0}
        for name in ("measured_over_piloted", "memory_error_fraction", "used_over_promised")
    )
    rows = [
        ("random models, in runs of one to four", f"{found['num_models']} in {found['num_runs']}"),
        ("units executed", found["num_units"]),
        ("**breaches of a budget**", f"**{found['num_breaches']}**"),
        ("runs that failed otherwise", found["num_other_failures"]),
        ("models cut into several shards", found["num_models_cut"]),
        ("runs on devices of unlike size", found["num_mixed_clusters"]),
        ("refused with one byte less", found["num_refused"]),
        ("... of which named layer, numbers, and enough memory", found["num_refusals_right"]),
        ("activation peak measured over piloted, a shard (min, median, max)", _numbers(ratio)),
        ("margin on top of the pilot", f"{found['margin_fraction']:.1%}"),
        ("margin that was needed", f"{found['needed_margin_fraction']:.3%}"),
        ("memory predicted over measured, less one, a device (min, median, max)", _numbers(error)),
        ("memory used over promised, a device (min, median, max)", _numbers(used)),
        *(
            (f"for information: {name}, the worker's memory as the system sees it over its budget", f"{value:.2f}")
            for name, value in found["outside_peak_fraction"].items()
        ),
    ]
    lines = [f"| {name} | {value} |" for name, value in rows]
    failures = [f"- `--only {f['seed']}`: {f['error'] or 'refused wrongly'}" for f in found["failures"]]
    return "\n".join(
        [
            "# Memory: is what fits on paper what fits",
            "",
            f"Emulated CPU devices, torch {found['torch']}, {found['num_cores']} cores. `{found['command']}`",
            "",
            "Models are drawn at random; the smallest device has the least memory for which they can be cut, and up",
            "to 10 % more; a random policy plans, and the plan runs for real. A breach is a budget that was",
            "exceeded, or a plan refused after the cuts were accepted.",
            "",
            "| | |",
            "|---|---|",
            *lines,
            "",
            "![Memory used over memory promised](used.png)",
            "",
            *(failures or ["No failures."]),
            "",
        ]
    )


def _numbers(spread: dict[str, float]) -> str:
    return ", ".join(f"{spread[name]:.3f}" for name in ("min", "median", "max"))


def _draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw how full the smallest devices got, and how close units came to their pilots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    ran = [outcome for outcome in outcomes if outcome.used_bytes]
    left.hist([max(outcome.used_fractions) for outcome in ran], bins=40, color="C0")
    left.axvline(1.0, color="C3", linestyle="--", label="promised")
    left.set(xlabel="measured peak / promised memory, fullest device", ylabel="runs")
    left.legend(loc="upper left")
    right.hist([ratio for outcome in ran for ratio in outcome.pilot_ratios], bins=40, color="C0")
    right.axvline(1 + MARGIN_FRACTION, color="C3", linestyle="--", label=f"margin {MARGIN_FRACTION:.0%}")
    right.set(xlabel="activation peak, measured / piloted", ylabel="shards", yscale="log")
    right.legend(loc="upper left")
    figure.savefig(path, dpi=120)
