"""Tiny input files for the command line's tests."""

import json
from pathlib import Path

from hydrasim import Cluster, Device, Phase, Profile, Shard, TrainingJob, Workload
from hydrasim.profile import KindProfile, Measurement

WORKLOAD = """\
version: 1
jobs:
  - name: A
    minibatches: 2
    repeat: 2
    shards: [{forward_s: 1, backward_s: 1, parameter_bytes: 1024, optimizer_bytes: 1024, output_bytes: 64}]
  - name: B
    minibatches: 1
    repeat: 2
    shards: [{forward_s: 1, backward_s: 1, parameter_bytes: 1024, optimizer_bytes: 1024, output_bytes: 64}]
"""
CLUSTER = """\
version: 1
devices: [{memory_bytes: 8192, count: 2, h2d: {bytes_per_s: 1024}, d2h: {bytes_per_s: 1024}}]
"""
POLICY = '''
from dataclasses import dataclass
from hydrasim.policies import Policy

@dataclass(frozen=True)
class LastFirst(Policy):
    """Pick the last eligible unit."""

    def choose(self, device, view):
        return view.eligible(device)[-1]

@dataclass(frozen=True)
class Buggy(Policy):
    def choose(self, device, view):
        return view.nothing

@dataclass(frozen=True)
class Quits(Policy):
    def choose(self, device, view):
        raise SystemExit(0)

@dataclass(frozen=True)
class Interrupted(Policy):
    def choose(self, device, view):
        raise KeyboardInterrupt
'''


def write_world(folder: Path) -> None:
    """Write workload.yaml, cluster.yaml, policy.py and profile.json, and some that are not to be used."""
    (folder / "workload.yaml").write_text(WORKLOAD)
    (folder / "cluster.yaml").write_text(CLUSTER)
    (folder / "policy.py").write_text(POLICY)
    (folder / "quits.py").write_text("raise SystemExit(0)")
    (folder / "endless.yaml").write_text(WORKLOAD.replace("minibatches: 2", "minibatches: 9000000000000000000"))
    (folder / "slow.yaml").write_text(CLUSTER.replace("bytes_per_s: 1024", "bytes_per_s: 5.0e-324"))
    profile().write(folder / "profile.json")


def profile(**changes: object) -> Profile:
    """Return a profile of one job on devices of kind `test`: units take 2 s, copies 0.5 s, fetches none."""
    workload = Workload((TrainingJob("A", (Shard(0.0, 0.0, parameter_bytes=1024),), 2),))
    units = {("A", Phase.LOSS, 0): Measurement(2.0, 2.0, 0.0, 9)}
    copies = {direction: {1024: Measurement(0.5, 0.5, 0.0, 9)} for direction in ("h2d", "d2h")}
    fields = {"kinds": {"test": KindProfile(units, copies)}, "fetches": {"A": Measurement(0.0, 0.0, 0.0, 9)}, **changes}
    return Profile(workload, **fields)  # type: ignore[arg-type]


def measured_on(num_devices: int) -> Cluster:
    return Cluster.of(num_devices, Device(4096, kind="test"))


def as_json(text: str) -> dict:
    """Read the one JSON value that a command printed."""
    return json.loads(text)
