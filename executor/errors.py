"""Errors of real runs, on top of those of hydrasim."""

from __future__ import annotations

from hydrasim.errors import HydraError


class JobError(HydraError, ValueError):
    """A job cannot be trained as given."""


class ExtractionError(JobError):
    """A module cannot be turned into a chain of layers that gives the same bits."""


class CheckpointError(HydraError, ValueError):
    """A checkpoint cannot be written, or is damaged, or of another job."""


class DeviceError(HydraError, RuntimeError):
    """A device is missing, or its settings are impossible."""


class ExecutionError(HydraError, RuntimeError):
    """A run ended early: which job, which unit, and why.

    worker_traceback: where in the user's code. out_of_memory: whether a device had too little memory.
    """

    worker_traceback: str = ""
    out_of_memory: bool = False


class BudgetExceeded(HydraError, MemoryError):
    """A unit allocated more than the device's activation budget."""


class HostMemoryError(HydraError, MemoryError):
    """The host has too little memory for the jobs' state and boundaries."""
