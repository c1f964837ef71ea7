"""Sentences for what went wrong in another process: which job, which unit, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping

from executor.errors import ExecutionError
from executor.host_store import DEVICE_LANES, StoreView
from executor.messages import Broken
from executor.pool import UPDATER, DevicePool
from hydrasim.command import Command, Kind

Process = int | str | None  # a device's worker, a job's loader, or the updater


_WHEN = {
    Kind.FETCH: "while a mini-batch was awaited",
    Kind.SAVE: "while it saved a checkpoint",
    Kind.RESTORE: "while it read a checkpoint",
}


def failure_of(process: Process, message: Broken, command: Command | None) -> ExecutionError:
    """Say what a process reported of a command, None for one that is not known: it failed by itself.

    Torch raises in a loader, whatever it does, when one of its own workers is killed.
    """
    if command is None:
        return ExecutionError(f"{named(process)} failed while idle: {message.text}")
    where = {int: f"on device {process}", str: "in its loader"}.get(type(process), "in host memory")
    error = ExecutionError(
        f"job {command.unit.job!r} failed in the {message.kind} of {command.unit} {where}: {message.text}"
    )
    error.worker_traceback = message.trace
    error.out_of_memory = message.text.startswith(("BudgetExceeded:", "OutOfMemoryError:"))
    return error


def doing_of(device: int, store: StoreView, running: Mapping[int, Command]) -> Command | None:
    """Return what a device's worker has begun and not reported, its unit first. running: commands that are not done."""
    began = [running.get(store.read_doing(device, lane)) for lane in DEVICE_LANES]
    return next((command for command in began if command is not None and command.device == device), None)


def end_of(process: Process, pool: DevicePool, doing: Command | None) -> ExecutionError:
    """Say that a process ended, how, and what it was doing."""
    if isinstance(process, str):
        when = "while idle" if doing is None else _WHEN[doing.kind]
        return ExecutionError(f"{named(process)} process ended {when}.")
    if process is None:
        assert pool.updater is not None
        return ExecutionError(f"{UPDATER} {pool.updater.describe_end()}.")
    what = "while idle" if doing is None else f"during the {doing.kind.value} of {doing.unit} (job {doing.unit.job!r})"
    return ExecutionError(f"{named(process)} {pool.workers[process].describe_end()} {what}.")


def named(process: Process) -> str:
    """Name a process."""
    if process is None:
        return UPDATER
    return f"the worker of device {process}" if isinstance(process, int) else f"job {process!r}: its loader"
