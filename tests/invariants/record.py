"""What the invariants were tried on: random worlds, counted as they are drawn, and the record made of the counts."""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydrasim.disk import make_folder, write_text
from hydrasim.mechanism import MECHANISMS, Mechanism
from hydrasim.workload import Workload

DRAWN: Counter[tuple[str, str]] = Counter()  # worlds so far in this process, by (what of them, its value)

_TITLES = {
    "policy": "policies",
    "system": "rival systems",
    "mechanism": "mechanisms",
    "effects": "rungs of effects",
    "num_devices": "devices",
    "num_jobs": "jobs",
    "activation_mode": "activation modes, of jobs",
}


def count_world(workload: Workload, num_devices: int, **names: str) -> None:
    """Take note that a world was drawn."""
    DRAWN["worlds", ""] += 1
    DRAWN.update((what, name) for what, name in names.items())
    DRAWN.update([("num_devices", str(num_devices)), ("num_jobs", str(len(workload.jobs)))])
    DRAWN.update(("activation_mode", job.activation_mode) for job in workload.jobs)


def mechanism_name(mechanism: Mechanism) -> str:
    return next((name for name, known in MECHANISMS.items() if known == mechanism), "other")


@dataclass
class Record:
    """One run of the invariants. tests: by name, how many worlds each was tried on, and whether it held in all."""

    command: str
    settings: dict[str, Any]
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    duration_s: float = 0.0

    def add(self, test: str, num_worlds: int, passed: bool) -> None:
        self.tests[test] = {"num_worlds": num_worlds, "passed": passed}

    def summary(self, drawn: Counter[tuple[str, str]]) -> dict[str, Any]:
        """Return what the record says; drawn: as `DRAWN`."""
        covered = {what: {name: n for (key, name), n in sorted(drawn.items()) if key == what} for what in _TITLES}
        return {
            "label": "simulated",
            "command": self.command,
            **self.settings,
            "num_tests": len(self.tests),
            "num_failed": sum(not found["passed"] for found in self.tests.values()),
            "num_worlds": sum(found["num_worlds"] for found in self.tests.values()),
            "duration_s": round(self.duration_s),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("hypothesis", "networkx", "ortools", "simpy")},
            "tests": self.tests,
            "covered": covered,
        }

    def write(self, folder: Path, drawn: Counter[tuple[str, str]]) -> None:
        """Write summary.json and report.md."""
        make_folder(folder)
        summary = self.summary(drawn)
        write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        write_text(folder / "report.md", "\n".join(_report(summary)) + "\n")


def _report(summary: dict[str, Any]) -> list[str]:
    tests, covered = summary["tests"], summary["covered"]
    facts = {key: value for key, value in summary.items() if key not in ("tests", "covered", "versions")}
    lines = ["# Invariants in random worlds", ""]
    lines += [
        f"{summary['num_tests']} tests, of which {summary['num_failed']} failed, on {summary['num_worlds']:,} worlds. "
        "Those that hypothesis draws to make a failing world smaller are among them.",
        "",
    ]
    lines += _table(("", ""), (facts | summary["versions"]).items())
    rows = [(name, f"{found['num_worlds']:,}", "yes" if found["passed"] else "NO") for name, found in tests.items()]
    lines += ["## Tests", "", *_table(("test", "worlds", "held"), rows)]
    for what, title in _TITLES.items():
        if covered[what]:
            counts = [(name, f"{count:,}") for name, count in covered[what].items()]
            lines += [f"## Worlds by {title}", "", *_table((what, "number"), counts)]
    return lines[:-1]


def _table(head: tuple[str, ...], rows: Any) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]
