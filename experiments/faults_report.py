"""The fault campaign's figures, as JSON, a table and a picture."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from executor.profiler import host_provenance
from hydrasim.disk import replacing, write_text

if TYPE_CHECKING:
    from experiments.faults import Trial

KINDS = ("load", "compute", "store", "commit", "checkpoint", "update", "fetch", "idle")
_DOTS_PER_INCH = 120


def summary(
    trials: Sequence[Trial], command: str, undisturbed_s: Mapping[str, float], *, in_place: bool
) -> dict[str, Any]:
    """Return the campaign's figures.

    num_struck: runs in which something was killed before they were over. num_faults: by what was under way; a worker
    may be doing several things. num_wrong: runs that ended in other bits. num_failed: that ended in an error. longer:
    the makespan beyond the undisturbed one's, in seconds.
    """
    struck = [trial for trial in trials if trial.struck]
    kinds = Counter(kind for trial in struck for kind in trial.under_way or ("idle",))
    longer = sorted(t.makespan_s - undisturbed_s[t.policy] for t in trials if t.makespan_s and t.struck)
    return {
        "label": "emulated",
        "command": command,
        "in_place": in_place,
        "num_runs": len(trials),
        "num_struck": len(struck),
        "num_faults": {kind: kinds[kind] for kind in KINDS},
        "num_wrong": sum(bool(trial.wrong) for trial in trials),
        "num_hung": sum(trial.hung for trial in trials),
        "num_failed": sum(bool(trial.error) for trial in trials),
        "num_leaked": sum(bool(trial.leaked) for trial in trials),
        "undisturbed_s": dict(undisturbed_s),
        "longer_s": {"median": median(longer), "most": longer[-1]} if longer else None,
        "errors": sorted({trial.error for trial in trials if trial.error}),
        "provenance": host_provenance(),
    }


def write_report(
    trials: Sequence[Trial],
    folder: Path,
    command: str,
    undisturbed_s: Mapping[str, float],
    wall_s: float,
    *,
    in_place: bool,
) -> dict[str, Any]:
    """Write summary.json, trials.csv, report.md and figure.png; return the summary."""
    found = summary(trials, command, undisturbed_s, in_place=in_place) | {"wall_s": round(wall_s, 1)}
    write_text(folder / "summary.json", json.dumps(found, indent=1) + "\n")
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(
        ["number", "policy", "victim", "at_s", "struck", "under_way", "makespan_s", "wrong", "error", "hung", "leaked"]
    )
    for trial in trials:
        fields = asdict(trial) | {"under_way": " ".join(trial.under_way), "wrong": len(trial.wrong)}
        fields |= {name: f"{fields[name]:.4f}" for name in ("at_s", "makespan_s")}
        writer.writerow(fields.values())
    write_text(folder / "trials.csv", rows.getvalue())
    write_text(folder / "report.md", report_text(found))
    with replacing(folder / "figure.png") as temporary:
        _figure(trials, undisturbed_s).savefig(temporary, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return found


def report_text(found: dict[str, Any]) -> str:
    """Return the summary as a page."""
    host, longer = found["provenance"], found["longer_s"]
    lines = ["# Faults", ""]
    if found["in_place"]:
        lines += ["**States were stored where they lie, to see that the campaign notices: this is how it fails.**", ""]
    lines += [
        f"Four jobs on two emulated devices, {found['num_runs']} runs, in each one process killed (SIGKILL) at an "
        "instant uniform over the run; weights, optimizer state, losses and metrics held against the undisturbed run, "
        "bit by bit.",
        "",
        f"Made by `{found['command']}`: {host['cpu']}, {host['num_cores']} cores, {host['measured_at']}, "
        f"{found['wall_s']:.0f} s.",
        "",
        "| under way when it was killed | faults |",
        "|---|---|",
        *(f"| {kind} | {count} |" for kind, count in found["num_faults"].items()),
        "",
        f"Runs that ended in other bits: **{found['num_wrong']}**; in an error: {found['num_failed']}; that hung: "
        f"{found['num_hung']}; that left processes or descriptors behind: {found['num_leaked']}.",
        "",
    ]
    if longer:
        lines.append(
            f"A fault cost {longer['median']:.2f} s of the makespan, in the median, at most {longer['most']:.2f} s; "
            f"undisturbed that is {min(found['undisturbed_s'].values()):.2f} to "
            f"{max(found['undisturbed_s'].values()):.2f} s, by policy. Starting a process anew takes longer than "
            "most of these runs, so the other device does the rest."
        )
        lines += ["", "![When processes were killed, and how long the runs took](figure.png)"]
    return "\n".join(lines) + "\n"


def _figure(trials: Sequence[Trial], undisturbed_s: Mapping[str, float]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axes = figure.subplots()
    for kind in KINDS:
        mine = [
            trial for trial in trials if trial.makespan_s and trial.struck and (trial.under_way or ("idle",))[0] == kind
        ]
        if mine:
            axes.scatter(
                [t.at_s for t in mine], [t.makespan_s - undisturbed_s[t.policy] for t in mine], s=14, label=kind
            )
    axes.axhline(0.0, color="gray", linewidth=1)
    axes.set_xlabel("a process is killed, seconds into the run")
    axes.set_ylabel("makespan beyond the undisturbed one, s")
    axes.legend(fontsize=8, title="under way", title_fontsize=8)
    return figure
