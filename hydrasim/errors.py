"""Every error a user can meet: what was found, what is allowed, what to do."""

from __future__ import annotations

_MAX_LETTERS = 500


class HydraError(Exception):
    """Base of all errors raised on purpose; the command line prints its message and exits with 2."""


class WorkloadError(HydraError, ValueError):
    """A job, shard, unit name or workload file is malformed."""


class ClusterError(HydraError, ValueError):
    """A device, link or cluster file is malformed."""


class ShardTooLarge(HydraError, ValueError):
    """A unit needs more memory than a device offers, so no plan can run it."""


class HostMemoryTooSmall(HydraError, ValueError):
    """Host memory, and disk if there is one, cannot hold what the jobs leave there."""


class PolicyError(HydraError, RuntimeError):
    """A policy is unknown, chose a unit that may not run, or gave up with work left."""


class PlanError(HydraError, ValueError):
    """A plan does not fit the workload or cluster it is to be followed on."""


class ProfileError(HydraError, ValueError):
    """A profile is malformed or lacks a measurement that is needed."""


class TimelineError(HydraError, ValueError):
    """A timeline file is malformed or lacks the unit asked for."""


class SystemRefused(HydraError, ValueError):
    """A rival system does not exist, or could not train the workload on these devices."""


class StallError(HydraError, RuntimeError):
    """Commands are left, but none of them can ever start."""


def told(reason: BaseException) -> str:
    """Return an exception's type and message; one of a user's own may fail to give any, or give a book."""
    try:
        text = shortened(str(reason))
    except Exception:
        text = "(its message cannot be read)"
    return f"{type(reason).__name__}: {text}" if text else type(reason).__name__


def shortened(text: str) -> str:
    """Return the text, cut where it would fill the screen: a file's fields, and so messages, know no bounds."""
    return text if len(text) <= _MAX_LETTERS else f"{text[:_MAX_LETTERS]} ... ({len(text):,} letters)"
