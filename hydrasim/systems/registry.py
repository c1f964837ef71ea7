"""Finds systems: every file of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING

import hydrasim.systems as package
from hydrasim.errors import SystemRefused
from hydrasim.systems.base import System
from hydrasim.systems.quoted import SHARP, quoted_only

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def systems() -> dict[str, type[System]]:
    """Return the rival systems by name."""
    found: dict[str, type[System]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        loaded = importlib.import_module(f"{package.__name__}.{module.name}")
        for value in vars(loaded).values():
            if (
                isinstance(value, type)
                and issubclass(value, System)
                and not value.__abstractmethods__
                and value.__module__ == loaded.__name__
            ):
                found[System.name_of(value)] = value
    return dict(sorted(found.items()))


def make_system(name: str, options: Mapping[str, str] | None = None) -> System:
    """Make a system by its name; options are its fields, as text.

    Raises:
        SystemRefused: there is no such system or option, or the value is none for it.
    """
    if name not in systems():
        if name == SHARP:
            raise SystemRefused(f"{SHARP} is this project's own way to train: simulate a policy instead.")
        if quoted := next((system for system in quoted_only() if system.lower() == name.lower()), None):
            raise SystemRefused(f"{quoted} is not simulated; there is only what papers quote of it.")
        raise SystemRefused(f"no system is named {name!r}; there are {SHARP}, {', '.join(systems())}.")
    known = {field.name: field.type for field in fields(systems()[name])}
    values: dict[str, object] = {}
    for key, text in (options or {}).items():
        if key not in known:
            raise SystemRefused(f"system {name} has no option {key!r}; it has {', '.join(known) or 'none'}.")
        values[key] = _parsed(name, key, text, str(known[key]))
    return systems()[name](**values)


@cache
def parse_system(text: str) -> System:
    """Make a system by its name with options if need be, such as fsdp:recompute=false.

    Raises:
        SystemRefused: as `make_system`.
    """
    name, *options = text.split(":")
    return make_system(name, {key: value for key, _, value in (option.partition("=") for option in options)})


def _parsed(name: str, key: str, text: str, kind: str) -> object:
    """Read an option's text as what its field holds."""
    if kind.endswith("None") and text in ("", "none"):
        return None
    plain = kind.partition(" |")[0]
    try:
        if plain == "bool":
            return {"true": True, "yes": True, "false": False, "no": False}[text.lower()]
        return {"int": int, "float": float}.get(plain, str)(text)
    except (KeyError, ValueError):
        raise SystemRefused(f"system {name}: {key} is {text!r}; it must be of type {plain}.") from None
