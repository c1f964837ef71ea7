"""The command `report`: one page of a folder of results, of a user's own timelines, or of both."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from experiments.options import output_option

MAX_TIMELINES = 4  # above each other

ResultsFolder = Annotated[
    Path | None, typer.Argument(metavar="[RESULTS]", help="A folder of results; else results, unless --timeline.")
]
PageFile = Annotated[Path, output_option("--output", "-o", text="The page to write.")]
TimelineFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--timeline", metavar="FILE", help="A timeline of yours; give it again for the ones to be shown below it."
    ),
]
ComparisonFile = Annotated[
    Path | None, typer.Option("--comparison", metavar="FILE", help="What `hydrasim compare --json` printed.")
]
ProfileFile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="The profile of the timelines: says how much memory was there."),
]


def report(
    results: ResultsFolder = None,
    output: PageFile = Path("report.html"),
    timeline: TimelineFiles = None,
    comparison: ComparisonFile = None,
    profile: ProfileFile = None,
) -> None:
    """Make one HTML page to look at: runs to zoom into, policies, fidelity, the paper's figures.

    The page needs no network and no server. Without --timeline or --comparison it shows the folder of results;
    with them, what they name, above the folder if that is named too.
    """
    from datetime import datetime, timezone

    from experiments.html_report.collect import Report, collect, own_comparison, own_run
    from experiments.html_report.page import Origin, page
    from experiments.report import print_error, size
    from hydrasim.disk import write_text
    from hydrasim.errors import HydraError

    if len(timeline or []) > MAX_TIMELINES:
        raise HydraError(f"{len(timeline or [])} timelines were given; {MAX_TIMELINES} can be shown above each other.")
    if profile is not None and not timeline:
        raise HydraError("--profile says how much memory the runs of --timeline had; give those too.")
    found = Report()
    if timeline:
        found.runs.append(own_run(timeline, profile))
    if comparison is not None:
        found.comparisons.append(own_comparison(comparison))
    if results is not None or found.is_empty:
        collect(results or Path("results"), found)
    if found.is_empty:
        why = " ".join(["holds nothing that the page can show.", *found.problems])
        raise HydraError(f"{results or 'results'} {why}")
    command = shlex.join(["hydrasim", *sys.argv[1:]])
    text = page(found, Origin(command, datetime.now(timezone.utc)))
    write_text(output, text)
    for problem in found.problems:
        print_error(f"left out: {problem}")
    typer.echo(
        f"{output}: {size(len(text.encode()))}; runs: {len(found.runs)}, comparisons: {len(found.comparisons)}, "
        f"figures: {len(found.figures)}"
    )
