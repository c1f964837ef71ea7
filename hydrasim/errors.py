"""Every error a user can meet: what was found, what is allowed, what to do."""

from __future__ import annotations


class HydraError(Exception):
    """Base of all errors raised on purpose; the command line prints its message and exits with 2."""


class WorkloadError(HydraError, ValueError):
    """A job, shard, unit name or workload file is malformed."""


class ClusterError(HydraError, ValueError):
    """A device, link or cluster file is malformed."""


class ShardTooLarge(HydraError, ValueError):
    """A unit needs more memory than a device offers, so no plan can run it."""


class PolicyError(HydraError, RuntimeError):
    """A policy is unknown, chose a unit that may not run, or gave up with work left."""


class PlanError(HydraError, ValueError):
    """A plan does not fit the workload or cluster it is to be followed on."""


class ProfileError(HydraError, ValueError):
    """A profile is malformed or lacks a measurement that is needed."""


class TimelineError(HydraError, ValueError):
    """A timeline file is malformed or lacks the unit asked for."""


class StallError(HydraError, RuntimeError):
    """Commands are left, but none of them can ever start."""
