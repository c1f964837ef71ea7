"""Asks a policy for a unit, and trusts nothing that comes back: policies are users' code."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from hydrasim.errors import HydraError, PolicyError, told
from hydrasim.workload import ShardUnit

if TYPE_CHECKING:
    from hydrasim.policies.base import Policy
    from hydrasim.view import View

_NUM_LISTED = 8


def ask(
    policy: Policy, device: int, view: View, eligible: Sequence[ShardUnit], story: Sequence[str]
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
            f"  At {where.filename}:{where.lineno}.\n  Last commands: {_chain(story)}"
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
            f"  Last commands: {_chain(story)}"
        )
    return eligible[eligible.index(unit)]  # what equals it may still be made of floats


def listed(units: Sequence[ShardUnit]) -> str:
    """Name a few units for a message."""
    return ", ".join(map(str, islice(units, _NUM_LISTED)))


def _chain(story: Sequence[str]) -> str:
    return " > ".join(story) or "none"
