"""What solvers answered, kept in results/NAME/solved.json: minutes of search that a figure need not repeat.

A key holds a hash of all that determines the answer, so that what has changed is solved again. The file belongs to the
repository, wherever tables and pictures are written to.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydrasim.cluster import Cluster
from hydrasim.disk import make_folder, write_text
from hydrasim.errors import HydraError
from hydrasim.files import workload_fields
from hydrasim.mechanism import Mechanism
from hydrasim.workload import Workload

_LATER = {"restart_s": 0.0, "recoverable": False, "checkpoint_every": None}
RESULTS = Path(__file__).resolve().parents[2] / "results"

Answer = dict[str, Any]  # JSON values


class Solved(dict[str, Answer]):
    """A file of answers by key."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_text()) if path.exists() else {})
        self._path = path

    def answer(self, key: str, of: str) -> Answer:
        """Return an answer; of: what it is called.

        Raises:
            HydraError: the file has none.
        """
        if key not in self:
            raise HydraError(
                f"{self._path} holds no answer for {of} as it is now; run the figure without --draw-only, which solves "
                "what is missing, or with --fresh, which solves all again."
            )
        return self[key]

    def keep(self, key: str, answer: Answer) -> None:
        """Add an answer, and write the file."""
        self[key] = answer
        make_folder(self._path.parent)
        write_text(self._path, json.dumps(dict(sorted(self.items())), indent=1) + "\n")


def solved_file(figure: str) -> Path:
    """Return where the answers of a figure are kept."""
    return RESULTS / figure / "solved.json"


def stated(workload: Workload) -> dict[str, Any]:
    """Return what a digest takes of a workload: what its file says, which leaves out what few jobs have."""
    return {"jobs": workload_fields(workload)["jobs"]}


def settings(of: Cluster | Mechanism) -> dict[str, Any]:
    """Return what a digest takes of a cluster or mechanism: fields that came later only where they change something."""
    return {name: value for name, value in asdict(of).items() if name not in _LATER or value != _LATER[name]}


def digest_of(fields: list[Any]) -> str:
    """Return a short hash of JSON values."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
