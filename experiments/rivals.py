"""Rival systems on the command line: which one is meant, with which options, and what there is to say of each."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.report import policy_fields
from hydrasim.errors import HydraError
from hydrasim.systems import make_system, systems
from hydrasim.systems.quoted import PAPER_FIG8, SHARP, quoted_only

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydrasim.systems import System

SystemName = Annotated[
    str, typer.Option("--system", metavar="NAME", help=f"A rival system; {SHARP} is this project's own way to train.")
]
SystemOptions = Annotated[
    list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="An option of the system; may be repeated.")
]
SystemNames = Annotated[str, typer.Option("--systems", metavar="A,B,C", help="Rival systems to add, or all.")]


def read_system(name: str, options: Sequence[str], own: Mapping[str, object]) -> System | None:
    """Make the rival system that the command line names; None for SHARP itself.

    own: the options that go with SHARP alone, and what they were given.

    Raises:
        HydraError: options contradict each other, or there is no such system or option of it.
    """
    if name == SHARP:
        if options:
            raise HydraError(f"--option sets options of rival systems; {SHARP} has --policy and --mechanism.")
        return None
    for option, value in own.items():
        if value is not None:
            raise HydraError(f"{option} goes with --system {SHARP}; {name} follows none. Leave one of the two out.")
    pairs = [option.partition("=") for option in options]
    if wrong := next(("".join(pair) for pair in pairs if not (pair[0] and pair[1])), None):
        raise HydraError(f"--option {wrong} sets nothing; write it as KEY=VALUE, such as microbatches=4.")
    return make_system(name, {key.strip(): value.strip() for key, _, value in pairs})


def system_names(text: str) -> list[str]:
    """Return the rival systems that a comma-separated list names; `all` names all.

    Raises:
        HydraError: it names all and others, or this project's own way to train.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return list(systems())
    if "all" in names:
        raise HydraError("--systems has all beside other names; write all alone, or only the others.")
    if SHARP in names:
        raise HydraError(f"--systems adds rivals; {SHARP} is what the rows of --policies are. Leave it out.")
    return names


def system_rows() -> list[dict[str, Any]]:
    """Return what there is to say of every rival system, and of those that are only quoted."""
    rows: list[dict[str, Any]] = []
    for name, system in systems().items():
        options = {option.name: option.default for option in fields(system)}
        rows.append({"system": name, "label": "simulated", **policy_fields(system), "options": options})
    for name in quoted_only():
        source = next(quote.source for quote in PAPER_FIG8 if quote.system == name)
        summary = "Not simulated: there is only what papers report of it."
        rows.append({"system": name, "label": "quoted", "summary": summary, "source": source, "options": {}})
    return rows


def options_text(row: dict[str, Any]) -> str:
    """Write a system's options and their defaults as they are typed."""
    return "\n".join(f"{name}={str(value).lower()}" for name, value in row["options"].items())
