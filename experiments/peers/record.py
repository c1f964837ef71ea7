"""What is kept of a race, as JSON, and the figures that follow from it alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from executor.profiler import host_provenance
from experiments.peers.contender import Task
from experiments.peers.losses import TOLERANCE
from experiments.peers.race import Entry
from experiments.peers.ratios import ratio_of_pairs
from experiments.peers.registry import OURS
from hydrasim.disk import make_folder, read_text, write_text
from hydrasim.errors import HydraError

Record = dict[str, Any]
LABEL = "emulated"
_TENTH = 0.1  # how far a simulated rival may be from the real one before figures must carry its interval


def record_of(
    task: Task,
    entries: Mapping[str, Entry],
    command: str,
    *,
    is_smoke: bool,
    simulated: Mapping[str, Any] | None = None,
) -> Record:
    """Return a race as it is kept. simulated: the same contenders, simulated."""
    workload = task.workload
    return {
        "workload": workload.name,
        "optimizer": task.optimizer,
        "is_smoke": is_smoke,
        "label": LABEL,
        "command": command,
        "settings": {
            **asdict(workload),
            "policy": task.policy,
            "num_tokens": workload.num_tokens,
            "state_bytes": workload.state_bytes(task.optimizer),
            "loss_tolerance": TOLERANCE,
        },
        "contenders": {name: _contender(entry, workload.num_tokens) for name, entry in entries.items()},
        "simulated": dict(simulated or {}),
        "provenance": host_provenance(),
    }


def _contender(entry: Entry, num_tokens: int) -> Record:
    fields = asdict(entry) | {"tokens_per_s": num_tokens / median(entry.seconds) if entry.seconds else None}
    return fields | ({"ratio": asdict(ratio_of_pairs(entry.pairs))} if entry.pairs else {})


def write_record(record: Record, folder: Path) -> None:
    """Write a race into the folder's races/; an earlier one of the same task goes."""
    make_folder(folder / "races")
    path = folder / "races" / f"{record['workload']}-{record['optimizer']}.json"
    write_text(path, json.dumps(record, indent=1) + "\n")


def read_records(folder: Path, *, is_smoke: bool) -> list[Record]:
    """Return the races that lie in a folder, smoke or real ones.

    Raises:
        HydraError: a file is none of ours.
    """
    records = []
    for path in sorted((folder / "races").glob("*.json")):
        try:
            record = json.loads(read_text(path, HydraError))
            if record["is_smoke"] == is_smoke:
                records.append(record)
        except (ValueError, LookupError, TypeError) as reason:
            raise HydraError(f"{path} is no race: {reason}. Remove it, or run that race again.") from None
    return records


def summary(records: Sequence[Record], command: str) -> Record:
    """Return the figures of all races: how many times as fast ours is, by rival, optimizer and workload.

    simulation: of each simulated rival, between what and what its simulated throughput over the real one lies.
    """
    ratio_to: dict[str, dict[str, dict[str, Any]]] = {}
    simulation: dict[str, list[float]] = {}
    for record in records:
        for name, found in record["contenders"].items():
            if name == OURS or "ratio" not in found:
                continue
            simulated = _beside(found, record["simulated"].get(name))
            ratio_to.setdefault(name, {}).setdefault(record["optimizer"], {})[record["workload"]] = {
                **found["ratio"],
                "tokens_per_s": found["tokens_per_s"],
                "ours_tokens_per_s": record["contenders"][OURS]["tokens_per_s"],
                "largest_loss_difference": found["loss_difference"],
                **simulated,
            }
            if simulated:
                simulation.setdefault(name, []).append(simulated["simulated_over_measured_tokens_per_s"])
    return {
        "label": LABEL,
        "command": command,
        "ratio_to": ratio_to,
        "simulation": {name: _reach(values) for name, values in simulation.items()},
        "races": list(records),
    }


def _beside(found: Record, simulated: Mapping[str, Any] | None) -> Record:
    """Return what the simulation says of a rival, and how far it is from what was measured."""
    if simulated is None or "ratio" not in simulated:
        return {}
    return {
        "simulated_ratio": simulated["ratio"],
        "simulated_over_measured_ratio": simulated["ratio"] / found["ratio"]["value"],
        "simulated_over_measured_tokens_per_s": simulated["tokens_per_s"] / found["tokens_per_s"],
    }


def _reach(values: Sequence[float]) -> Record:
    """Return between what and what values lie, and whether all are within a tenth of 1."""
    return {
        "low": min(values),
        "high": max(values),
        "num_races": len(values),
        "within_tenth": all(abs(value - 1) <= _TENTH for value in values),
    }
