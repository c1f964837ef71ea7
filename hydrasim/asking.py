"""Asks a policy for a unit, and trusts nothing that comes back: policies are users' code."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NoReturn

from hydrasim.errors import HydraError, PlanError, PolicyError, told
from hydrasim.workload import ShardUnit

if TYPE_CHECKING:
    from hydrasim.command import Command
    from hydrasim.plan import Plan
    from hydrasim.policies.base import Policy
    from hydrasim.progress import JobProgress
    from hydrasim.view import View

_NUM_LISTED = 8


def ask(
    policy: Policy, device: int, view: View, eligible: Sequence[ShardUnit], story: Sequence[Command]
) -> ShardUnit | None:
    """Return the policy's choice for a device, one of the eligible units or None.

    story: the last commands, for the message.

    Raises:
        PolicyError: it chose something else, or failed.
    """
    try:
        unit = policy.choose(device, view)
    except HydraError:
        raise
    except (Exception, SystemExit) as reason:
        where = traceback.extract_tb(reason.__traceback__)[-1]
        raise PolicyError(
            f"{policy.name} failed to choose for device {device}: {told(reason)}\n"
            f"  At {where.filename}:{where.lineno}.\n  Last commands: {chain(story)}"
        ) from reason
    if unit is None:
        return None
    if type(unit) is not ShardUnit:  # a class of the user's own may equal anything
        raise PolicyError(
            f"{policy.name} returned a {type(unit).__name__} for device {device}.\n"
            f"  Return one of the ShardUnits of view.eligible({device}), or None to be asked again later."
        )
    if unit not in eligible:
        raise PolicyError(
            f"{policy.name} chose {unit} for device {device}, where it is not eligible.\n"
            f"  Choose from view.eligible({device}); it held {listed(eligible)}.\n"
            f"  Last commands: {chain(story)}"
        )
    return eligible[eligible.index(unit)]  # what equals it may still be made of floats


def listed(units: Sequence[ShardUnit]) -> str:
    """Name a few units for a message."""
    return ", ".join(map(str, islice(units, _NUM_LISTED)))


def chain(story: Sequence[Command]) -> str:
    """Name commands in their order."""
    return " > ".join(map(str, story)) or "none"


def complain_of_order(plan: Plan, positions: Sequence[int], progress: Mapping[str, JobProgress]) -> NoReturn:
    """Say which units of a plan wait for units that come later in it; positions: where each device is in it.

    Raises:
        PlanError: always.
    """
    lines = ["the plan cannot go on: every device's next unit waits for one that has not been run."]
    for device, position in enumerate(positions):
        if position < len(plan.devices[device]):
            unit = plan.devices[device][position].unit
            possible = progress[unit.job].issuable()
            ahead = ", ".join(f"{u} (device {plan.device_of[u]})" for u in possible) or "the units now running"
            lines.append(f"  Device {device} is at {unit}; job {unit.job!r} can only go on with {ahead}.")
    raise PlanError("\n".join(lines) + "\n  Reorder these units so that every unit follows its predecessors.")


def complain_of_idling(
    policy: Policy, progress: Mapping[str, JobProgress], eligible: Sequence[ShardUnit], story: Sequence[Command]
) -> NoReturn:
    """Say that a policy chose nothing while nothing runs and work is left; eligible: what device 0 could run.

    Raises:
        PolicyError: always.
    """
    left = ", ".join(name for name, job in progress.items() if not job.finished)
    raise PolicyError(
        f"{policy.name} chose nothing for any device, nothing runs, and work is left in {left}.\n"
        f"  Device 0 could run {listed(eligible) or 'nothing'}.\n"
        f"  Last commands: {chain(story)}"
    )
