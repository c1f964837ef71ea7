"""What a case leaves behind: profile, plans, simulated and measured timelines, and hashes of what was predicted.

<case>/case.json            what the case is, and how it went
       profile.json         measured before
       plan-POLICY.json     \\ predicted; predictions.json has their hashes, written before the first unit runs
       simulated-POLICY...  /
       measured-POLICY-N... every repeat
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydrasim.disk import make_folder, read_text, write_text
from hydrasim.errors import HydraError
from hydrasim.mechanism import OURS, Mechanism
from hydrasim.plan import Plan
from hydrasim.profile import Profile
from hydrasim.timeline import Timeline

_FILES = ("case.json", "profile.json", "predictions.json", "plan-*.json", "simulated-*.gz", "measured-*.gz")


@dataclass
class Evidence:
    """A case's predictions, and its measured timelines by policy, in the order in which they ran.

    about: what the case is, for people. num_attempts: how often it has been run into the same folder.
    """

    name: str
    profile: Profile
    predicted: Mapping[str, tuple[Plan, Timeline]]
    mechanism: Mechanism = OURS
    about: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, list[Timeline]] = field(default_factory=dict)
    num_oom: int = 0
    num_attempts: int = 1

    def write_predictions(self, folder: Path) -> None:
        """Clear the folder and write what is predicted, so that nobody can adjust it to what comes out."""
        make_folder(folder)
        self.num_attempts = 1 + _attempts(folder)
        for path in (path for pattern in _FILES for path in folder.glob(pattern)):
            path.unlink()
        self.profile.write(folder / "profile.json")
        for policy, (plan, timeline) in self.predicted.items():
            plan.write(folder / f"plan-{policy}.json")
            timeline.write(folder / f"simulated-{policy}.jsonl.gz")
        write_text(folder / "predictions.json", json.dumps(_digests(folder), indent=1) + "\n")
        self.write_outcome(folder)

    def write_outcome(self, folder: Path) -> None:
        """Write what the case is and how it went."""
        fields = {name: getattr(self, name) for name in ("name", "about", "num_oom", "num_attempts")}
        fields |= {"mechanism": asdict(self.mechanism), "policies": list(self.predicted)}
        write_text(folder / "case.json", json.dumps(fields, indent=1) + "\n")

    def add(self, policy: str, timeline: Timeline, folder: Path | None) -> None:
        """Take a measured run in."""
        runs = self.measured.setdefault(policy, [])
        if folder is not None:
            timeline.write(folder / f"measured-{policy}-{len(runs)}.jsonl.gz")
        runs.append(timeline)

    @classmethod
    def read(cls, folder: Path) -> Evidence:
        """Read a case back.

        Raises:
            HydraError: something is missing, or was changed after it was predicted.
        """
        try:
            fields = json.loads(read_text(folder / "case.json", HydraError))
            hashes = json.loads(read_text(folder / "predictions.json", HydraError))
            policies, mechanism = fields.pop("policies"), Mechanism(**fields.pop("mechanism"))
        except (ValueError, LookupError, TypeError) as reason:
            raise HydraError(f"{folder} holds no case, or a damaged one; run it again.") from reason
        if hashes != _digests(folder):
            raise HydraError(f"{folder}: a prediction was changed after it was hashed; run the case again.")
        predicted = {
            policy: (
                Plan.read(folder / f"plan-{policy}.json"),
                Timeline.read(folder / f"simulated-{policy}.jsonl.gz"),
            )
            for policy in policies
        }
        measured = {
            policy: [Timeline.read(path) for path in sorted(folder.glob(f"measured-{policy}-[0-9]*.jsonl.gz"))]
            for policy in policies
        }
        measured = {policy: runs for policy, runs in measured.items() if runs}
        return cls(
            profile=Profile.read(folder / "profile.json"), predicted=predicted, mechanism=mechanism, measured=measured,
            **fields,
        )  # fmt: skip


def _digests(folder: Path) -> dict[str, str]:
    names = sorted(path.name for pattern in _FILES[1:2] + _FILES[3:5] for path in folder.glob(pattern))
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _attempts(folder: Path) -> int:
    try:
        return int(json.loads(read_text(folder / "case.json", HydraError))["num_attempts"])
    except (HydraError, ValueError, LookupError, TypeError):
        return 0
