"""Memory of the host for what all processes share: asked for up front, and refused with numbers."""

from __future__ import annotations

import os

from executor.errors import HostMemoryError


def allocate(fd: int, offset: int, nbytes: int) -> None:
    """Back a range with memory, or say by how much the host falls short."""
    check_available(nbytes)
    if nbytes:
        try:
            os.posix_fallocate(fd, offset, nbytes)
        except OSError as reason:
            raise refused(nbytes, reason) from None


def check_available(nbytes: int) -> None:
    """Make sure that the host has so much memory to give.

    Raises:
        HostMemoryError: it has not.
    """
    if nbytes > (available := of_system("MemAvailable")):
        raise HostMemoryError(
            f"the jobs need {nbytes:,} bytes of host memory for state and boundaries; {available:,} are available."
        )


def of_system(name: str) -> int:
    """Return a figure of the system's memory, in bytes."""
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def refused(nbytes: int, reason: OSError) -> HostMemoryError:
    """Return what to say when the system has the memory, but does not give it (ulimit -f, a control group)."""
    return HostMemoryError(
        f"the host does not give {nbytes:,} bytes of memory for state and boundaries: {reason.strerror}."
    )
