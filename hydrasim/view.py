"""What a policy may see: read-only, and only what a live scheduler can know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

    from hydrasim.orchestrator import Orchestrator
    from hydrasim.workload import ActivationMode, ShardUnit, TrainingJob


class JobView(Protocol):
    """A job's progress, in the paper's terms. Seconds are the scheduler's beliefs, not the truth."""

    @property
    def order(self) -> int: ...
    @property
    def job(self) -> TrainingJob: ...
    @property
    def finished(self) -> bool: ...
    @property
    def minibatches_left(self) -> int: ...
    @property
    def minibatches_done(self) -> int: ...
    @property
    def minibatch_s(self) -> float: ...
    @property
    def minibatch_left_s(self) -> float: ...
    @property
    def remaining_s(self) -> float: ...
    @property
    def busy_s(self) -> float: ...
    @property
    def num_issued_units(self) -> int: ...
    @property
    def last_issue(self) -> int: ...
    @property
    def devices(self) -> Mapping[int, int]: ...


class View:
    """The state of the run at one decision. Times are in seconds, sizes in bytes."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self.rng: Random = orchestrator.rng

    @property
    def num_devices(self) -> int:
        """How many devices are used."""
        return self._orchestrator.num_devices

    @property
    def jobs(self) -> Sequence[JobView]:
        """The jobs submitted so far, in the order of the workload."""
        return [progress for progress in self._orchestrator.progress.values() if progress.arrived]

    def eligible(self, device: int) -> Sequence[ShardUnit]:
        """Return the units that may be chosen for a device now.

        The successors of the unit now running there come first, so that ties go to them as in the
        released Hydra; then each job's front units, in the order of the jobs.
        """
        return self._orchestrator.eligible(device)

    def job(self, name: str) -> JobView:
        return self._orchestrator.progress[name]

    def running(self, device: int) -> Sequence[ShardUnit]:
        """Return the units issued to a device and not yet done: the running one, then a bound one."""
        return tuple(self._orchestrator.in_flight[device])

    def mode(self, unit: ShardUnit, device: int) -> ActivationMode:
        """Return how the unit would find its activations, or what would become of them, if bound to a device now."""
        residency = self._orchestrator.residency
        return self.job(unit.job).job.activation_mode if residency is None else residency.mode(unit, device)

    def compute_s(self, unit: ShardUnit, device: int) -> float:
        """Return how long the unit is believed to compute on a device if bound to it now."""
        return self._orchestrator.beliefs_of(unit.job).compute_s(unit, device, self.mode(unit, device))

    def missing_bytes(self, unit: ShardUnit, device: int) -> int:
        """Return the bytes of the unit's state and inputs that are not on the device."""
        residency = self._orchestrator.residency
        return 0 if residency is None else residency.missing_bytes(unit, device)

    def load_s(self, unit: ShardUnit, device: int) -> float:
        """Return how long loading the missing bytes is believed to take, alone on the link."""
        missing = self.missing_bytes(unit, device)
        return self._orchestrator.beliefs.copy_s(missing, device, "h2d") if missing else 0.0

    def free_bytes(self, device: int) -> int:
        """Return the bytes of a device's arena that hold no live block."""
        residency = self._orchestrator.residency
        if residency is None:
            return self._orchestrator.cluster.devices[device].memory_bytes
        return residency.arenas[device].capacity - residency.arenas[device].used_bytes
