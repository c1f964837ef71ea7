"""Options whose values are checked as they are typed, before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer


def one_of(label: str, allowed: Iterable[str]) -> Callable[[str | None], str | None]:
    """Return a check for an option that takes one of the allowed words, or nothing."""

    def check(text: str | None) -> str | None:
        if text is not None and text not in allowed:
            raise typer.BadParameter(f"{text!r} is not one of the {label}: {', '.join(allowed)}.")
        return text

    return check


def output_option(*names: str, text: str) -> Any:
    """Return an option that names a file to write; its folder is looked for before any work is done."""

    def check(path: Path | None) -> Path | None:
        if path is not None and not path.absolute().parent.is_dir():
            raise typer.BadParameter(f"there is no folder {path.parent} to write {path.name} into.")
        return path

    return typer.Option(*names, metavar="FILE", help=text, callback=check)


def output_folder(*names: str, text: str) -> Any:
    """Return an option that names a folder to write into; that it can be one is checked before any work is done."""

    def check(path: Path | None) -> Path | None:
        there = None if path is None else next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        if there is not None and not there.is_dir():
            raise typer.BadParameter(f"{path} cannot be a folder, since {there} is a file.")
        return path

    return typer.Option(*names, metavar="FOLDER", help=text, callback=check)
