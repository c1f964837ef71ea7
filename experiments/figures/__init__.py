"""Figures and tables, one a module: `run` makes the table, `draw` the picture, and `ABOUT` says what they are.

A module is found by being here. Its rows are what data.csv holds: they come out the same on every run, but for the
columns that ABOUT names as measured. If its note has numbers of ours, `facts` takes them from the table.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

Label = Literal["simulated", "emulated", "analytic"]


@dataclass(frozen=True)
class About:
    """What a figure shows.

    title: a sentence. label: where its numbers come from. source: the paper's figure or table that it remakes, "" for
    none. note: where it differs from that, and why; its {fields} are filled from the module's `facts(frame)`, so that
    no number in it can go stale. measured_columns: what differs from run to run, as wall time does;
    these are kept in measured.csv. keys: the columns that name a row. ratios: the columns that more mini-batches should
    not move. rivals: the simulated ones in it, as races of real ones call them; it carries how far those were off.
    """

    title: str
    label: Label
    source: str = ""
    note: str = ""
    keys: tuple[str, ...] = ()
    measured_columns: tuple[str, ...] = ()
    ratios: tuple[str, ...] = ("ratio",)
    rivals: tuple[str, ...] = ()


def note(module: ModuleType, frame: pd.DataFrame) -> str:
    """Return a figure's note with what its table says."""
    facts = module.facts(frame) if hasattr(module, "facts") else {}
    text: str = module.ABOUT.note.format(**facts)
    return text


def figure_names() -> list[str]:
    """Return the names of the figures on the command line."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def figure(name: str) -> ModuleType:
    """Return the module of a figure."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
