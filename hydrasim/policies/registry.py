"""Finds policies: every file of this folder, and a user's own file."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
import sys
from functools import cache
from pathlib import Path

import hydrasim.policies as package
from hydrasim.errors import PolicyError, told
from hydrasim.policies.base import Policy


@cache
def policies() -> dict[str, type[Policy]]:
    """Return the policies that ship with hydrasim, by name; follow-plan is apart, since it needs a plan."""
    found: dict[str, type[Policy]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name in ("base", "registry"):
            continue
        loaded = importlib.import_module(f"{package.__name__}.{module.name}")
        for value in vars(loaded).values():
            if _is_policy(value) and value.__module__ == loaded.__name__ and _needs_nothing(value):
                found[Policy.name_of(value)] = value
    return dict(sorted(found.items()))


def make_policy(policy: Policy | str) -> Policy:
    """Return the policy itself, or a new one of that registered name or `file.py:Name`.

    Raises:
        PolicyError: there is no such policy.
    """
    if isinstance(policy, Policy):
        return policy
    if ".py:" in policy:
        return load_policy(policy)
    if policy not in policies():
        raise PolicyError(f"no policy is named {policy!r}; there are {', '.join(policies())}, or give file.py:Name.")
    return policies()[policy]()


def load_policy(location: str) -> Policy:
    """Make a policy from a user's file, given as `path/to/file.py:Name`.

    Raises:
        PolicyError: the file cannot be imported, or Name is no policy in it.
    """
    path, _, name = location.rpartition(":")
    unlike_any_module = f"policy file {path}"  # a file may be called random.py
    spec = importlib.util.spec_from_file_location(unlike_any_module, path)
    if not Path(path).is_file() or spec is None or spec.loader is None:
        raise PolicyError(f"there is no Python file {path!r} to take the policy {name!r} from.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        value = getattr(module, name, None)
        if value is None or not _is_policy(value):
            there = [key for key, other in vars(module).items() if _is_policy(other) and other is not Policy]
            raise PolicyError(f"{path} has no policy {name!r}; it has {', '.join(there) or 'none'}.")
        made: Policy = value()
    except PolicyError:
        raise
    except (Exception, SystemExit) as reason:
        raise PolicyError(f"{location} cannot be used: {told(reason)}") from reason
    return made


def _is_policy(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Policy) and not value.__abstractmethods__


def _needs_nothing(policy: type[Policy]) -> bool:
    if not dataclasses.is_dataclass(policy):
        return True
    missing = dataclasses.MISSING
    return all(f.default is not missing or f.default_factory is not missing for f in dataclasses.fields(policy))
