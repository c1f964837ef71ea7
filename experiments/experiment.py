"""The command that makes figures and tables: `hydrasim experiment`."""

from __future__ import annotations

import inspect
import json
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments import report
from experiments.figures import figure_names, figures, note
from experiments.options import output_folder
from hydrasim.disk import make_folder, write_text
from hydrasim.errors import HydraError

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
_DOTS_PER_INCH = 120
_RATIO = "ratio"  # the column that every figure has whose rows are compared with the paper or each other

Name = Annotated[str, typer.Argument(metavar="NAME", help="A figure, or `all`; without a name they are listed.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Tiny worlds: that it runs, not what it shows.")]
DrawOnly = Annotated[bool, typer.Option("--draw-only", help="Draw again from the data that is there.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Solve again what solvers have solved before.")]
Doubling = Annotated[bool, typer.Option("--doubling", help="Also with twice as many mini-batches; into doubling.csv.")]
FullLength = Annotated[bool, typer.Option("--full", help="Also with every mini-batch; into full.csv.")]
Results = Annotated[Path, output_folder("--output", "-o", text="Where each figure gets a folder.")]


def experiment(
    name: Name = "",
    smoke: Smoke = False,
    draw_only: DrawOnly = False,
    fresh: Fresh = False,
    doubling: Doubling = False,
    full: FullLength = False,
    output: Results = Path("results"),
) -> None:
    """Make a figure or table: data.csv, figure.png and run.json in a folder of its name.

    The rows of data.csv are the same on every run; what differs, as wall time does, is in measured.csv.
    """
    if not name:
        report.print_table(
            ("figure", "what it shows", "of the paper", "label"),
            [(key, made.ABOUT.title, made.ABOUT.source, made.ABOUT.label) for key, made in figures().items()],
            text=True,
        )
        return
    if name != ALL and name not in figure_names():
        raise HydraError(f"no figure is named {name!r}; there are {ALL}, {', '.join(figure_names())}.")
    # What is executed takes the machine for itself, and is not remade with the rest: `make emulated`.
    names = [key for key, made in figures().items() if made.ABOUT.label != "emulated"] if name == ALL else [name]
    with report.step_progress(len(names), "figures", quiet=False) as advance:
        for key in names:
            module, folder = figures()[key], output / key
            if not draw_only:
                make(key, module, folder, smoke=smoke, fresh=fresh)
            if doubling:
                check_doubling(module, folder)
            if full:
                make_full(module, folder)
            draw(module, folder)
            typer.echo(f"{key}: {folder / 'figure.png'}")
            if advance is not None:
                advance(1)


def make(name: str, module: ModuleType, folder: Path, *, smoke: bool = False, fresh: bool = False) -> None:
    """Run a figure and write its table and how it came about."""
    make_folder(folder)
    options = {"fresh": True} if fresh and "fresh" in inspect.signature(module.run).parameters else {}
    started = time.monotonic()
    frame = module.run(smoke, **options)
    about = module.ABOUT
    if about.measured_columns:
        write_csv(frame[[*about.keys, *about.measured_columns]], folder / "measured.csv")
    write_csv(frame.drop(columns=list(about.measured_columns)), folder / "data.csv")
    fields = {
        "name": name,
        "title": about.title,
        "label": about.label,
        "source": about.source,
        "note": "" if smoke else note(module, frame),
        "command": f"hydrasim experiment {name}{' --smoke' if smoke else ''}",
        "smoke": smoke,
        "seconds": round(time.monotonic() - started, 1),
        "errors": error_summary(frame),
    }
    write_text(folder / "run.json", json.dumps(fields, indent=1) + "\n")


def draw(module: ModuleType, folder: Path) -> None:
    """Draw a figure from its table.

    Raises:
        HydraError: there is no table.
    """
    frame = read_frame(module, folder)
    figure = module.draw(frame)
    figure.savefig(folder / "figure.png", dpi=_DOTS_PER_INCH, metadata={"Software": None})


def read_frame(module: ModuleType, folder: Path) -> pd.DataFrame:
    """Read a figure's table back, with what was measured.

    Raises:
        HydraError: there is none, or a damaged one.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(folder / "data.csv", keep_default_na=True)
        if module.ABOUT.measured_columns:
            frame = frame.merge(pd.read_csv(folder / "measured.csv"), on=list(module.ABOUT.keys), how="left")
    except (OSError, ValueError, KeyError) as reason:
        raise HydraError(f"{folder} holds no table of this figure; run it without --draw-only first.") from reason
    return frame


def check_doubling(module: ModuleType, folder: Path) -> pd.DataFrame | None:
    """Run a figure with twice as many mini-batches, and write how far each ratio moves."""
    from experiments.paper.runs import STEADY_MINIBATCHES

    if "num_minibatches" not in inspect.signature(module.run).parameters:
        return None
    keys = list(module.ABOUT.keys)
    frame = read_frame(module, folder)[[*keys, _RATIO]]
    twice = module.run(False, num_minibatches=2 * STEADY_MINIBATCHES)[[*keys, _RATIO]]
    both = frame.merge(twice.rename(columns={_RATIO: "ratio_of_twice_as_many"}), on=keys)
    both["moved_fraction"] = both["ratio_of_twice_as_many"] / both[_RATIO] - 1
    write_csv(both, folder / "doubling.csv")
    return both


def make_full(module: ModuleType, folder: Path) -> None:
    """Run a figure with every mini-batch of every job."""
    if "num_minibatches" not in inspect.signature(module.run).parameters:
        raise HydraError(f"{module.__name__} has no mini-batches to extend.")
    write_csv(module.run(False, num_minibatches=0), folder / "full.csv")


def error_summary(frame: pd.DataFrame) -> dict[str, Any]:
    """Return how far the ratios are from the paper's, by costs."""
    if "error_fraction" not in frame or "costs" not in frame:
        return {}
    found = frame.dropna(subset=["error_fraction"])
    return {
        str(costs): {"median_abs_error_fraction": round(float(part["error_fraction"].abs().median()), 4),
                     "max_abs_error_fraction": round(float(part["error_fraction"].abs().max()), 4),
                     "num_points": len(part)}
        for costs, part in found.groupby("costs")
    }  # fmt: skip


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table so that the same one gives the same bytes."""
    write_text(path, frame.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
