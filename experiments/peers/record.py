"""What is kept of a race, as JSON, and the figures that follow from it alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from executor.profiler import host_provenance
from experiments.peers.losses import TOLERANCE
from experiments.peers.race import Entry, Race
from experiments.peers.ratios import ratio_of_pairs
from experiments.peers.registry import OURS
from hydrasim.disk import make_folder, read_text, write_text
from hydrasim.errors import HydraError

Record = dict[str, Any]
LABEL = "emulated"


def record_of(race: Race, command: str, *, is_smoke: bool, simulated: Mapping[str, Any] | None = None) -> Record:
    """Return a race as it is kept. simulated: the same contenders, simulated."""
    task = race.task
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
        "contenders": {name: _contender(entry, workload.num_tokens) for name, entry in race.entries.items()},
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
    """Return the figures of all races: how many times as fast ours is, by rival, optimizer and workload."""
    ratio_to: dict[str, dict[str, dict[str, Any]]] = {}
    for record in records:
        for name, found in record["contenders"].items():
            if name != OURS and "ratio" in found:
                kept = {
                    **found["ratio"],
                    "tokens_per_s": found["tokens_per_s"],
                    "ours_tokens_per_s": record["contenders"][OURS]["tokens_per_s"],
                    "largest_loss_difference": found["loss_difference"],
                    **_beside(found["ratio"]["value"], record["simulated"].get(name)),
                }
                ratio_to.setdefault(name, {}).setdefault(record["optimizer"], {})[record["workload"]] = kept
    return {"label": LABEL, "command": command, "ratio_to": ratio_to, "races": list(records)}


def _beside(measured: float, simulated: Mapping[str, Any] | None) -> Record:
    """Return what the simulation says of a ratio, and how far it is from the measured one."""
    if simulated is None or "ratio" not in simulated:
        return {}
    return {
        "simulated_ratio": simulated["ratio"],
        "simulated_over_measured": simulated["ratio"] / measured,
    }
