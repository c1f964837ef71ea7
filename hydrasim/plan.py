"""A plan: per device, the ordered units, with where their state lies and what they evict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hydrasim.errors import PlanError
from hydrasim.workload import ActivationMode, Phase, ShardUnit, TrainingJob, Workload

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.timeline import Timeline

VERSION = 1


class Placement(NamedTuple):
    """What binding a unit came to: where its state lies, what made room, and the mode of its activations."""

    offset: int
    evict: tuple[str, ...]
    mode: ActivationMode


@dataclass(frozen=True)
class Step:
    """One unit of a plan.

    mode: what becomes of a forward's activations; it may say "recompute" where its job keeps or spills them, and
    so does a backward that finds none. None: as its job says.
    offset and evict: where its state lay and what made room, as planned; None: not worked out yet.
    """

    unit: ShardUnit
    mode: ActivationMode | None = None
    offset: int | None = None
    evict: tuple[str, ...] = ()

    def check(self, found: Placement) -> None:
        """Hold what binding the unit came to against what was worked out.

        Raises:
            PlanError: it came to something else.
        """
        if self.offset is not None and found != (self.offset, self.evict, self.mode or found.mode):
            raise PlanError(
                f"the plan puts {self.unit} at offset {self.offset} and evicts {list(self.evict)}; "
                f"here it comes to {found.offset} and {list(found.evict)}, in mode {found.mode}.\n"
                "  Plan again for this mechanism, or leave offset and evict out of an edited plan."
            )


@dataclass(frozen=True)
class Plan:
    """What each device runs, in order. Digests name the workload, cluster and profile it was made for."""

    devices: tuple[tuple[Step, ...], ...]
    workload_digest: str
    cluster_digest: str
    profile_digest: str = ""
    policy: str = ""
    makespan_s: float | None = None

    @cached_property
    def device_of(self) -> dict[ShardUnit, int]:
        return {step.unit: device for device, steps in enumerate(self.devices) for step in steps}

    @cached_property
    def position_of(self) -> dict[ShardUnit, int]:
        return {step.unit: position for steps in self.devices for position, step in enumerate(steps)}

    @classmethod
    def of(cls, timeline: Timeline, workload: Workload, cluster: Cluster, profile_digest: str = "") -> Plan:
        """Return the plan that a timeline followed, without the memory it used.

        Raises:
            PlanError: the timeline ran on devices that the cluster does not have.
        """
        steps: list[list[Step]] = [[] for _ in cluster.devices]
        for span in sorted(timeline.spans, key=lambda span: (span.start_s, span.number)):
            if span.kind == "compute":
                unit = ShardUnit.parse(span.unit)
                if span.device >= len(steps):
                    raise PlanError(f"the timeline ran on device {span.device}, the cluster has {len(steps)} devices.")
                steps[span.device].append(Step(unit, workload.job(unit.job).activation_mode))
        return cls(
            tuple(map(tuple, steps)), workload.digest, cluster.digest, profile_digest, timeline.header.get("policy", "")
        )

    def check(self, workload: Workload, num_devices: int) -> None:
        """Make sure that the plan runs every unit of the workload once, on devices that exist.

        Raises:
            PlanError: it does not, or was made for another workload.
        """
        if self.workload_digest != workload.digest:
            raise PlanError(
                f"the plan was made for workload {self.workload_digest}, this one is {workload.digest}; plan again."
            )
        if len(self.devices) != num_devices:
            raise PlanError(f"the plan is for {len(self.devices)} devices, the cluster has {num_devices}; plan again.")
        planned = [step.unit for steps in self.devices for step in steps]
        if len(planned) != workload.num_units or len(set(planned)) != len(planned):
            raise PlanError(
                f"the plan has {len(planned)} units, {len(set(planned))} of them different; "
                f"the workload has {workload.num_units}, each to be run once."
            )
        for step in (step for steps in self.devices for step in steps):
            job = workload.by_name.get(step.unit.job)
            if job is None or not _is_unit_of(job, step.unit):
                raise PlanError(f"the plan holds {step.unit}, which is no unit of the workload.")
            gives_up = step.mode == "recompute" and step.unit.phase is not Phase.LOSS
            if not gives_up and step.mode not in (None, job.activation_mode):
                raise PlanError(f"the plan runs {step.unit} in mode {step.mode}, its job in {job.activation_mode}.")

    def to_json(self) -> str:
        """Return the plan as JSON text, one step a line."""
        header = {
            "version": VERSION,
            "workload": self.workload_digest,
            "cluster": self.cluster_digest,
            "profile": self.profile_digest,
            "policy": self.policy,
            "makespan_s": self.makespan_s,
        }
        devices = ",\n".join(
            "  [\n" + ",\n".join(f"   {json.dumps(_step_fields(step))}" for step in steps) + "\n  ]"
            for steps in self.devices
        )
        return json.dumps(header)[:-1] + f',\n "devices": [\n{devices}\n ]}}\n'

    def write(self, path: Path) -> None:
        from hydrasim.disk import write_text

        write_text(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan file.

        Raises:
            PlanError: it is not a plan of this version.
        """
        from hydrasim.files import read_json
        from hydrasim.schemas import PlanFile

        file = read_json(path, PlanFile, PlanError)
        devices = tuple(
            tuple(Step(ShardUnit.parse(s.unit), s.mode, s.offset, tuple(s.evict)) for s in steps)
            for steps in file.devices
        )
        return cls(devices, file.workload, file.cluster, file.profile, file.policy, file.makespan_s)


def _step_fields(step: Step) -> dict[str, object]:
    fields: dict[str, object] = {"unit": str(step.unit), "mode": step.mode}
    if step.offset is not None:
        fields |= {"offset": step.offset, "evict": list(step.evict)}
    return fields


def _is_unit_of(job: TrainingJob, unit: ShardUnit) -> bool:
    last = len(job.shards) - 1
    if not (0 <= unit.shard <= last and 0 <= unit.minibatch < job.num_minibatches):
        return False
    if job.schedule.is_evaluation(unit.minibatch):
        return unit.phase is Phase.EVALUATE
    phases = {Phase.FORWARD, Phase.BACKWARD}
    if job.fused and unit.shard == last:
        phases = {Phase.LOSS}
    if job.update_units and job.schedule.steps_after(unit.minibatch):
        phases |= {Phase.UPDATE}
    return unit.phase in phases
