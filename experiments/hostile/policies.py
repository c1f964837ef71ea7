"""Policies as users get them wrong; each is given as an object, and as a file."""

from __future__ import annotations

import sys
from typing import Any

from hydrasim.policies import Policy


class AlwaysNone(Policy):
    """Never chooses."""

    def choose(self, device: int, view: Any) -> Any:
        return None


class NoneAtTimes(Policy):
    """Chooses every other time, which is allowed."""

    def choose(self, device: int, view: Any) -> Any:
        return view.eligible(device)[0] if view.rng.random() < 0.5 or not view.running(device) else None


class Ineligible(Policy):
    """Chooses a unit of the next mini-batch."""

    def choose(self, device: int, view: Any) -> Any:
        unit = view.eligible(device)[0]
        return unit._replace(minibatch=unit.minibatch + 1)


class Twice(Policy):
    """Chooses what runs already."""

    def choose(self, device: int, view: Any) -> Any:
        running = [unit for other in range(view.num_devices) for unit in view.running(other)]
        return (running or view.eligible(device))[0]


class Text(Policy):
    """Returns the unit's text form."""

    def choose(self, device: int, view: Any) -> Any:
        return str(view.eligible(device)[0])


class Plain(Policy):
    """Returns a tuple that equals a unit."""

    def choose(self, device: int, view: Any) -> Any:
        return tuple(view.eligible(device)[0])


class Raises(Policy):
    """Raises what users' code raises."""

    def choose(self, device: int, view: Any) -> Any:
        return view.eligible(device)[10**6]


class Leaves(Policy):
    """Ends the program."""

    def choose(self, device: int, view: Any) -> Any:
        sys.exit(0)


class _Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError


class RaisesTheUnspeakable(Policy):
    """Raises an exception without a readable message."""

    def choose(self, device: int, view: Any) -> Any:
        raise _Speechless


class Recurses(Policy):
    """Never comes back, until the stack is full."""

    def choose(self, device: int, view: Any) -> Any:
        return self.choose(device, view)


class Unequal:
    """Cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise TypeError

    __hash__ = object.__hash__


class Incomparable(Policy):
    """Returns something that cannot be compared."""

    def choose(self, device: int, view: Any) -> Any:
        return Unequal()


class Takes(Policy):
    """Takes the units out of the list that it is given."""

    def choose(self, device: int, view: Any) -> Any:
        units = view.eligible(device)
        unit = units[0]
        units.clear()
        return unit


BAD_POLICIES = (
    AlwaysNone, NoneAtTimes, Ineligible, Twice, Text, Plain, Raises, Leaves, RaisesTheUnspeakable, Recurses,
    Incomparable, Takes,
)  # fmt: skip
