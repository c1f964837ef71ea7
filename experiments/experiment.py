"""The command that makes figures and tables: `hydrasim experiment`."""

from __future__ import annotations

import inspect
import json
import textwrap
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments import report
from experiments.caution import caution
from experiments.figures import figure, figure_names, note
from experiments.options import output_folder
from experiments.report import percent
from hydrasim.disk import make_folder, replacing, write_text
from hydrasim.errors import HydraError

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
_DOTS_PER_INCH = 120
_SMALL_POINTS, _CHARACTERS_PER_INCH = 7, 16

Name = Annotated[str, typer.Argument(metavar="NAME", help="A figure, or `all`; without a name they are listed.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Tiny worlds: that it runs, not what it shows.")]
DrawOnly = Annotated[bool, typer.Option("--draw-only", help="Draw and describe again what data is there.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Solve again what solvers have solved before.")]
Doubling = Annotated[
    bool, typer.Option("--doubling", help="Also with twice as many mini-batches, to see that ratios stay.")
]
FullLength = Annotated[bool, typer.Option("--full", help="Also with every mini-batch; into full.csv.")]
Results = Annotated[
    Path | None,
    output_folder(
        "--output", "-o", text="Where each figure gets a folder; [bold]results[/], or results/smoke for --smoke."
    ),
]


def experiment(
    name: Name = "",
    smoke: Smoke = False,
    draw_only: DrawOnly = False,
    fresh: Fresh = False,
    doubling: Doubling = False,
    full: FullLength = False,
    output: Results = None,
) -> None:
    """Make a figure or table: data.csv, figure.png and run.json in a folder of its name.

    The rows of data.csv are the same on every run; what differs, as wall time does, is in measured.csv.
    """
    if not name:
        report.print_table(
            ("figure", "what it shows", "of the paper", "label"),
            [(key, about.title, about.source, about.label) for key in figure_names() for about in [figure(key).ABOUT]],
            text=True,
        )
        return
    if name != ALL and name not in figure_names():
        raise HydraError(f"no figure is named {name!r}; there are {ALL}, {', '.join(figure_names())}.")
    if smoke and (doubling or full):
        raise HydraError("--smoke makes tiny worlds, of which --doubling and --full tell nothing; leave one out.")
    output = output or (Path("results/smoke") if smoke else Path("results"))
    # What is executed takes the machine for itself, and is not remade with the rest: `make emulated`.
    names = [key for key in figure_names() if figure(key).ABOUT.label != "emulated"] if name == ALL else [name]
    with report.step_progress(len(names), "figures", quiet=False) as advance:
        for key in names:
            module, folder = figure(key), output / key
            if draw_only:
                describe(module, folder)
            else:
                make(key, module, folder, smoke=smoke, fresh=fresh)
            draw(module, folder)
            typer.echo(f"{key}: {folder / 'figure.png'}")
            if (doubling or full) and not _takes(module, "num_minibatches"):
                typer.echo(f"{key}: it simulates no mini-batches; nothing to double or to run at full length.")
            else:
                if doubling:
                    typer.echo(f"{key}: {check_doubling(module, folder)}")
                if full:
                    make_full(module, folder)
            if advance is not None:
                advance(1)


def make(name: str, module: ModuleType, folder: Path, *, smoke: bool = False, fresh: bool = False) -> None:
    """Run a figure and write its table and how it came about."""
    make_folder(folder)
    options = {"fresh": True} if fresh and _takes(module, "fresh") else {}
    started = time.monotonic()
    frame = module.run(smoke, **options)
    seconds = round(time.monotonic() - started, 1)
    about = module.ABOUT
    if about.measured_columns:
        write_csv(frame[[*about.keys, *about.measured_columns]], folder / "measured.csv")
    write_csv(frame.drop(columns=list(about.measured_columns)), folder / "data.csv")
    fields = {
        "name": name,
        **_told(module, frame, smoke=smoke),
        "command": f"hydrasim experiment {name}{' --smoke' if smoke else ''}",
        "smoke": smoke,
        "seconds": seconds,
        "errors": error_summary(frame),
    }
    write_text(folder / "run.json", json.dumps(fields, indent=1) + "\n")


def describe(module: ModuleType, folder: Path) -> None:
    """Tell anew what a table shows, as title, note and what counts as an error may have changed since it was made.

    Raises:
        HydraError: there is no table, or no word of how it came about.
    """
    frame, path = read_frame(module, folder), folder / "run.json"
    try:
        fields = json.loads(path.read_text())
        fields |= {**_told(module, frame, smoke=fields["smoke"]), "errors": error_summary(frame)}
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise HydraError(f"{path} does not say how the table was made; run the figure without --draw-only.") from reason
    write_text(path, json.dumps(fields, indent=1) + "\n")


def _told(module: ModuleType, frame: pd.DataFrame, *, smoke: bool) -> dict[str, str]:
    about = module.ABOUT
    text = "" if smoke else note(module, frame)
    return {"title": about.title, "label": about.label, "source": about.source, "note": text}


def draw(module: ModuleType, folder: Path) -> None:
    """Draw a figure from its table.

    Raises:
        HydraError: there is no table.
    """
    picture = module.draw(read_frame(module, folder))
    if carried := caution(module.ABOUT.rivals):
        width = int(picture.get_size_inches()[0] * _CHARACTERS_PER_INCH)
        picture.suptitle(textwrap.fill(carried, width), fontsize=_SMALL_POINTS, color="dimgray")
    with replacing(folder / "figure.png") as temporary:
        picture.savefig(temporary, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})


def read_frame(module: ModuleType, folder: Path) -> pd.DataFrame:
    """Read a figure's table back, with what was measured.

    Raises:
        HydraError: there is none, or a damaged one.
    """
    import pandas as pd

    keys = list(module.ABOUT.keys)
    try:
        frame = pd.read_csv(folder / "data.csv", keep_default_na=True)
        if module.ABOUT.measured_columns:
            frame = frame.merge(pd.read_csv(folder / "measured.csv"), on=keys, how="left")
    except (OSError, ValueError, KeyError) as reason:
        raise HydraError(f"{folder} holds no table of this figure; run it without --draw-only first.") from reason
    if lacking := [key for key in keys if key not in frame]:
        raise HydraError(
            f"{folder / 'data.csv'} is not this figure's table: it lacks {', '.join(lacking)}; "
            "run the figure without --draw-only."
        )
    return frame


def check_doubling(module: ModuleType, folder: Path) -> str:
    """Run a figure with twice as many mini-batches; write how far each ratio moves, and say which moves farthest."""
    from experiments.paper.runs import STEADY_MINIBATCHES

    keys = list(module.ABOUT.keys)
    both = ratios(module, read_frame(module, folder)).merge(
        ratios(module, module.run(False, num_minibatches=2 * STEADY_MINIBATCHES)),
        on=[*keys, "what"],
        suffixes=("", "_of_twice_as_many"),
    )
    both["moved_fraction"] = both["value_of_twice_as_many"] / both["value"] - 1
    write_csv(both, folder / "doubling.csv")
    farthest = both.loc[both["moved_fraction"].abs().idxmax()]
    where = ", ".join(str(farthest[key]) for key in keys)
    return (
        f"with twice as many mini-batches no ratio moves by more than {percent(abs(farthest['moved_fraction']), 2)}, \
{farthest['what']} at {where}."
    )


def ratios(module: ModuleType, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row a ratio that the figure has: its keys, in `what` column it is, and its `value`."""
    about = module.ABOUT
    return frame.melt(list(about.keys), list(about.ratios), var_name="what").dropna(subset=["value"])


def make_full(module: ModuleType, folder: Path) -> None:
    """Run a figure with every mini-batch of every job."""
    write_csv(module.run(False, num_minibatches=0), folder / "full.csv")


def _takes(module: ModuleType, option: str) -> bool:
    return option in inspect.signature(module.run).parameters


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
