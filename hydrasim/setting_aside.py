"""A job that fails is set aside: nothing of it begins any more, what it held is given up, and the others go on."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydrasim.orchestrator import Orchestrator


def set_aside(run: Orchestrator, job: str) -> list[int]:
    """Set a job aside; return the commands that are pointless thereby.

    Room that it gives up is used once those of them that have begun are over.
    """
    progress = run.progress[job]
    if progress.is_set_aside:
        return []
    gone = [number for number, command in run.outstanding.items() if command.owner == job]
    for number in gone:
        del run.outstanding[number]
    run.in_flight = [deque(unit for unit in units if unit.job != job) for units in run.in_flight]
    if run.recovery is not None:
        run.recovery.forget(job)
    if run.following is not None:
        run.following.set_aside(job)
    if run.residency is not None:
        run.residency.give_up(progress.job)
    run.num_jobs_done += not progress.finished
    progress.set_aside()
    return gone
