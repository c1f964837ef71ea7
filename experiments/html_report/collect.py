"""What the page shows of a folder of results: whatever is there, and a sentence for what cannot be read."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

from experiments.html_report.files import Comparison, DemoSummary, Evidence, Fidelity, FigureRun, read_json
from experiments.html_report.timelines import Run, label, policy
from experiments.report import signed_percent
from hydrasim.capacity import arena_bytes
from hydrasim.disk import read_text
from hydrasim.errors import HydraError
from hydrasim.gantt import natural
from hydrasim.profile import Profile
from hydrasim.timeline import Timeline

MAX_DEVICES = 64  # of a timeline
MAX_ROWS = 200  # shown of a figure's data
MAX_PICTURE_BYTES = 1 << 21
_PNG = b"\x89PNG\r\n\x1a\n"

Given = ParamSpec("Given")
Read = TypeVar("Read")


@dataclass(frozen=True)
class Figure:
    """A figure of the paper, remade. columns, rows: the first rows of its data.csv, of num_rows."""

    folder: Path
    run: FigureRun
    png: bytes | None
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    num_rows: int = 0


@dataclass
class Report:
    """Everything that the page shows. problems: what lay there and could not be shown, and why."""

    runs: list[Run] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    demo: DemoSummary | None = None
    fidelity: Fidelity | None = None
    figures: list[Figure] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.runs or self.comparisons or self.demo or self.fidelity or self.figures or self.evidence)

    def attempt(self, read: Callable[Given, Read], *args: Given.args, **kwargs: Given.kwargs) -> Read | None:
        """Read a part of the page, or note why it cannot be read: one bad file does not cost the others."""
        try:
            return read(*args, **kwargs)
        except HydraError as problem:
            self.problems.append(str(problem))
            return None


def collect(folder: Path, report: Report) -> None:
    """Add what a folder of results holds to a report.

    Raises:
        HydraError: there is no such folder.
    """
    if not folder.is_dir():
        raise HydraError(f"there is no folder {folder}; name the one that holds results, or give --timeline.")
    demo, validation = folder / "demo" / "summary.json", folder / "validation" / "summary.json"
    if demo.exists() and (found := report.attempt(read_json, demo, DemoSummary)):
        report.demo = found
        report.comparisons.append(found.comparison())
        report.runs += _demo_runs(demo.parent, report)
    if validation.exists() and (fidelity := report.attempt(read_json, validation, Fidelity)):
        report.fidelity = fidelity
        report.runs += _validation_runs(validation.parent, fidelity, report)
    figures = [report.attempt(_figure, path.parent, report) for path in sorted(folder.glob("*/run.json"))]
    report.figures = sorted(
        filter(None, figures), key=lambda figure: natural(f"{figure.run.source} {figure.run.title}")
    )
    shown = {demo, validation, *(figure.folder / "summary.json" for figure in report.figures)}
    report.evidence = list(filter(None, map(_evidence, sorted({*folder.glob("*/summary.json")} - shown))))


def own_run(paths: Sequence[Path], profile: Path | None = None) -> Run:
    """Return a user's own timelines as a run, in the order given.

    Raises:
        HydraError: one cannot be read, or shows nothing.
    """
    timelines = [Timeline.read(path) for path in paths]
    for path, timeline in zip(paths, timelines, strict=True):
        if timeline.makespan_s <= 0:
            raise HydraError(f"{path} holds no span that took time; there is nothing to show.")
        if timeline.num_devices > MAX_DEVICES:
            raise HydraError(f"{path} has {timeline.num_devices} devices; the page shows at most {MAX_DEVICES}.")
    num_devices = max(timeline.num_devices for timeline in timelines)
    arena = None
    if profile is not None:
        arena = _arena_bytes(Profile.read(profile)) or ()
        if len(arena) < num_devices:
            raise HydraError(f"{profile} knows {len(arena)} devices of {num_devices}; give the profile of these runs.")
    names = [path.name for path in paths]
    return Run(" above ".join(names), tuple(zip(names, timelines, strict=True)), arena)


def own_comparison(path: Path) -> Comparison:
    """Return what `hydrasim compare --json` printed into a file.

    Raises:
        HydraError: it is something else.
    """
    return read_json(path, Comparison).model_copy(update={"title": path.name})


def _demo_runs(folder: Path, report: Report) -> Iterator[Run]:
    """Yield the plans that the demo executed, if their timelines are there: they are not kept in the repository."""
    for role, about in (("best", "The plan of least simulated makespan"), ("worst", "The worst work-conserving plan")):
        paths = [folder / f"{side}-{role}.jsonl" for side in ("simulated", "measured")]
        yield from _run(f"Demo, {role} plan", f"{about}, and what came of it.", paths, folder / "profile.json", report)


def _validation_runs(folder: Path, fidelity: Fidelity, report: Report) -> Iterator[Run]:
    """Yield the plan whose prediction was farthest off, and one whose error is the median."""
    plans = [(case, plan) for case in fidelity.cases for plan in case.plans]
    plans.sort(key=lambda pair: abs(pair[1].error_fraction))
    chosen = {"The prediction that was farthest off": plans[-1], "A typical prediction": plans[len(plans) // 2]}
    for what, (case, plan) in chosen.items():
        middle_s = sorted(plan.measured_s)[len(plan.measured_s) // 2]
        names = f"simulated-{plan.policy}", f"measured-{plan.policy}-{plan.measured_s.index(middle_s)}"
        paths = [folder / case.name / f"{name}.jsonl.gz" for name in names]
        about = f"{what}: {signed_percent(plan.error_fraction)}. Of its repeats, the one in the middle."
        yield from _run(f"Validation, {case.name}", about, paths, folder / case.name / "profile.json", report)


def _run(title: str, about: str, paths: list[Path], profile: Path, report: Report) -> Iterator[Run]:
    """Yield the run of these files, if they are all there and can be read."""
    if not all(path.exists() for path in paths):
        return
    timelines = [report.attempt(Timeline.read, path) for path in paths]
    known = report.attempt(Profile.read, profile) if profile.exists() else None
    arena = None if known is None else _arena_bytes(known)
    if found := tuple((label(timeline), timeline) for timeline in timelines if timeline is not None):
        yield Run(f"{title}: {policy(found[0][1])}", found, arena, about)


def _arena_bytes(profile: Profile) -> tuple[int, ...] | None:
    return profile.cluster and tuple(arena_bytes(profile.workload, profile.cluster))


def _figure(folder: Path, report: Report) -> Figure:
    run = read_json(folder / "run.json", FigureRun)
    data = folder / "data.csv"
    table = report.attempt(_table, data) if data.exists() else None
    columns, *rows = table or [[]]
    shown = tuple(map(tuple, rows[:MAX_ROWS]))
    return Figure(folder, run, report.attempt(_png, folder / "figure.png"), tuple(columns), shown, len(rows))


def _table(path: Path) -> list[list[str]]:
    try:
        return list(csv.reader(read_text(path, HydraError).splitlines()))
    except csv.Error as reason:
        raise HydraError(f"{path} is no table: {reason}.") from None


def _png(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_PICTURE_BYTES else b""
    except OSError as reason:
        raise HydraError(f"cannot read {path}: {reason.strerror}.") from None
    if not data.startswith(_PNG):
        raise HydraError(f"{path} is no PNG of at most {MAX_PICTURE_BYTES >> 20} MiB.")
    return data


def _evidence(path: Path) -> Evidence | None:
    try:
        return read_json(path, Evidence).model_copy(update={"folder": path.parent.name})
    except HydraError:
        return None  # a summary without label and command is for somebody else
