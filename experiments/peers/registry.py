"""Finds contenders: every file of contenders/."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from functools import cache

import experiments.peers.contenders as package
from experiments.peers.contender import Contender
from hydrasim.errors import HydraError

OURS = "ours"


@cache
def contenders() -> dict[str, type[Contender]]:
    """Return all ways to train by their names."""
    found: dict[str, type[Contender]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        loaded = importlib.import_module(f"{package.__name__}.{module.name}")
        for value in vars(loaded).values():
            if isinstance(value, type) and issubclass(value, Contender) and value.__module__ == loaded.__name__:
                found[value.registered_name] = value
    return dict(sorted(found.items()))


def find_contender(name: str) -> type[Contender]:
    """Return a contender's class; one that is no rival goes by module:Class.

    Raises:
        HydraError: there is none of that name.
    """
    module, _, attribute = name.partition(":")
    if attribute:
        found: type[Contender] = getattr(importlib.import_module(module), attribute)
        return found
    if name not in contenders():
        raise HydraError(f"no peer is named {name!r}; there are {', '.join(rival_names())}.")
    return contenders()[name]


def rival_names() -> list[str]:
    """Return the names of all that ours is compared with."""
    return [name for name in contenders() if name != OURS]


def missing_packages(name: str) -> Sequence[str]:
    """Return the packages that a contender needs and this environment lacks."""
    return [package for package in find_contender(name).packages if importlib.util.find_spec(package) is None]
