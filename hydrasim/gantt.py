"""Timelines as pictures: one panel each on one time axis, devices as rows, jobs as colours."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hydrasim.command import HOST, Kind, Lane
from hydrasim.errors import HydraError, TimelineError
from hydrasim.workload import ShardUnit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hydrasim.timeline import Timeline

Colour = tuple[float, float, float]

# Palettes that colour-blind readers tell apart: Okabe and Ito's (without yellow, which is too pale to
# shade) for a few jobs, Paul Tol's "muted" for some more; beyond that a walk along viridis.
_FEW = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_SOME = ("#332288", "#88CCEE", "#117733", "#DDCC77", "#CC6677", "#44AA99", "#882255", "#999933", "#AA4499")
TINTS = {"F": 0.45, "L": 0.0, "B": -0.28, "U": -0.6, "E": 0.7}  # towards white above 0, towards black below
PHASES = {"F": "forward", "L": "forward + backward", "B": "backward", "U": "update", "E": "evaluation"}
_INK = "#333333"
_FAINT = "#8A8F98"

_WIDTH_INCHES = 12.0
_ROW_INCHES = {lane.value: 0.46 if lane is Lane.COMPUTE else 0.15 for lane in Lane}
_DEVICE_LANES = [lane.value for lane in (Lane.COMPUTE, Lane.H2D, Lane.D2H, Lane.PEER, Lane.HOST)]
_UNIT_KINDS = {Kind.COMPUTE.value, Kind.UPDATE.value}
_GAP_INCHES = 0.16  # below a device's last row
_HEAD_INCHES, _FOOT_INCHES, _LEGEND_INCHES = 0.62, 0.62, 0.22  # above a panel; below all; a legend's row
_LEFT_INCHES, _RIGHT_INCHES = 0.9, 0.35
_LETTER_INCHES = 0.075  # width of a character of a bar's text
_EDGED_INCHES = 0.03  # narrower bars get no white edge: it would hide them
_SLIVER_INCHES = 1 / 100  # a narrower bar is hard to see
_LEGEND_COLUMNS, _MAX_LEGEND, _LONGEST_NAME = 8, 16, 40
_PATCH_INCHES = 0.45  # width of an entry of a legend beside its name


@dataclass(frozen=True)
class _Row:
    """A lane's place in a panel, in inches from the panel's top."""

    device: int
    lane: str
    top: float

    @property
    def height(self) -> float:
        return _ROW_INCHES[self.lane]


def draw(timelines: Sequence[tuple[str, Timeline]], path: Path | None = None, *, room_inches: float = 0.0) -> Figure:
    """Draw named timelines under each other; write the picture to a file when a path is given.

    Forward units are light, backward units dark, fused last units in between, updates darkest. Copies, sends
    and a rival's host-side updates are thin rows under their device's computations; updates in host memory, of
    all jobs, and the disk are rows under all devices; rows that would stay empty are left out. The file's format
    follows from its suffix (png, pdf, svg).
    room_inches: is left empty above them, for others to draw in.

    Raises:
        TimelineError: there is nothing to draw. HydraError: the file cannot be written.
    """
    if not timelines or not any(timeline.spans for _, timeline in timelines):
        raise TimelineError("there are no spans to draw.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [_rows(timeline) for _, timeline in timelines]
    heights = [panel[-1].top + panel[-1].height + _GAP_INCHES for panel in rows]
    colours = job_colours(timelines)
    phases = _phases(timelines)
    names, columns = _legend(list(colours), phases)
    foot = _FOOT_INCHES + _LEGEND_INCHES * -(-len(names) // columns)
    inches = room_inches + sum(heights) + _HEAD_INCHES * len(heights) + foot
    figure = Figure(figsize=(_WIDTH_INCHES, inches), facecolor="white")
    FigureCanvasAgg(figure)
    end_s = 1.005 * (max(timeline.makespan_s for _, timeline in timelines) or 1.0)
    width = _WIDTH_INCHES - _LEFT_INCHES - _RIGHT_INCHES
    top = inches - room_inches
    for (name, timeline), panel, height in zip(timelines, rows, heights, strict=True):
        top -= _HEAD_INCHES + height
        axes = figure.add_axes((_LEFT_INCHES / _WIDTH_INCHES, top / inches, width / _WIDTH_INCHES, height / inches))
        axes.set(xlim=(0, end_s), ylim=(height, 0))
        _bars(axes, timeline, panel, colours, width / end_s)
        _texts(axes, timeline, panel, colours, width / end_s)
        _frame(axes, _title(name, timeline), timeline.makespan_s, panel)
        axes.tick_params(labelbottom=timeline is timelines[-1][1])
    axes.set_xlabel("time [s]", color=_INK, fontsize=10)
    _legends(figure, {name: colours.get(job) for job, name in names.items()}, columns, phases, inches)
    if path is not None:
        save(figure, path)
    return figure


def job_colours(timelines: Sequence[tuple[str, Timeline]]) -> dict[str, Colour]:
    """Give each job a colour of its own, the same one in all panels."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    jobs = sorted({span.job for _, timeline in timelines for span in timeline.spans}, key=natural)
    palette = _FEW if len(jobs) <= len(_FEW) else _SOME
    if len(jobs) <= len(palette):
        return {job: to_rgb(palette[index]) for index, job in enumerate(jobs)}
    viridis = colormaps["viridis"]
    return {job: to_rgb(viridis(0.95 * index / (len(jobs) - 1))) for index, job in enumerate(jobs)}


def natural(job: str) -> list[str | int]:
    """Sort m2 before m10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", job)]


def _bars(axes: Axes, timeline: Timeline, rows: list[_Row], colours: dict[str, Colour], inches_per_s: float) -> None:
    """Draw every span of a device or of the disk as a box in its lane's row."""
    from matplotlib.collections import PolyCollection

    place = {(row.device, row.lane): row for row in rows}
    boxes, faces, edges = [], [], []
    ends_s = _visible_ends_s(timeline, inches_per_s)
    for span in timeline.spans:
        row = place.get((span.device, span.lane))
        if row is None:
            continue
        end_s = ends_s[span.number]
        copy = span.kind not in _UNIT_KINDS
        # A copy that occupies the compute lane is drawn as thin as one that does not.
        inset = 0.3 * row.height if copy and row.lane == Lane.COMPUTE.value else 0.0
        low, high = row.top + inset, row.top + row.height - inset
        boxes.append([(span.start_s, low), (end_s, low), (end_s, high), (span.start_s, high)])
        faces.append(_tinted(colours[span.job], 0.2 if copy else TINTS[ShardUnit.parse(span.unit).phase.value]))
        edges.append(0.5 if span.duration_s * inches_per_s > _EDGED_INCHES else 0.0)
    for row in rows:
        axes.axhspan(row.top, row.top + row.height, color="#F3F4F6", zorder=0, linewidth=0)
    # Snapped to pixels, narrow bars would vanish or double their width; unsnapped, a crowd of them fades to its share.
    axes.add_collection(
        PolyCollection(boxes, facecolors=faces, edgecolors="white", linewidths=edges, zorder=2, snap=False)
    )


def _visible_ends_s(timeline: Timeline, inches_per_s: float) -> dict[int, float]:
    """Return by span number where its bar ends: one too narrow to be seen is widened if its lane has room there."""
    sliver_s = _SLIVER_INCHES / inches_per_s
    ends_s, free_s = {}, dict[tuple[int | str, str], float]()
    for span in sorted(timeline.spans, key=lambda span: (span.start_s, span.end_s), reverse=True):
        has_room = free_s.get(span.lane_key, math.inf) - span.start_s > 2 * sliver_s
        ends_s[span.number] = max(span.end_s, span.start_s + sliver_s) if has_room else span.end_s
        free_s[span.lane_key] = span.start_s
    return ends_s


def _texts(axes: Axes, timeline: Timeline, rows: list[_Row], colours: dict[str, Colour], inches_per_s: float) -> None:
    """Write the unit on the bars that are wide enough for it."""
    middle = {row.device: row.top + row.height / 2 for row in rows if row.lane == Lane.COMPUTE.value}
    for span in timeline.spans:
        if span.kind != "compute":
            continue
        unit = ShardUnit.parse(span.unit)
        room = span.duration_s * inches_per_s / _LETTER_INCHES - 1
        short = f"{unit.phase.value}{unit.shard}"
        text = next((t for t in (str(unit), f"{short}#{unit.minibatch}", short) if len(t) <= room), None)
        if text is None:
            continue
        face = _tinted(colours[unit.job], TINTS[unit.phase.value])
        axes.text(
            (span.start_s + span.end_s) / 2, middle[span.device], text, ha="center", va="center", fontsize=8,
            color="white" if _luminance(face) < 0.45 else "black", zorder=4, clip_on=True,
        )  # fmt: skip


def _frame(axes: Axes, title: str, makespan_s: float, rows: list[_Row]) -> None:
    """Name the rows, mark the makespan and write the title."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.set_yticks([row.top + row.height / 2 for row in rows])
    axes.set_yticklabels([f"device {r.device}" if r.lane == Lane.COMPUTE.value else r.lane for r in rows])
    for row, tick in zip(rows, axes.get_yticklabels(), strict=True):
        thin = row.lane != Lane.COMPUTE.value
        tick.set(fontsize=7 if thin else 10, color=_FAINT if thin else _INK)
    axes.tick_params(axis="y", length=0, pad=5)
    axes.tick_params(axis="x", colors=_INK, labelsize=9)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.axvline(makespan_s, color=_INK, linestyle=(0, (4, 3)), linewidth=1.1, zorder=3)
    axes.annotate(
        _seconds(makespan_s), (makespan_s, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
        textcoords="offset points", ha="center", fontsize=9.5, color=_INK, annotation_clip=False,
    )  # fmt: skip
    # A file's name may hold the signs of a formula.
    axes.set_title(title, loc="left", fontsize=11.5, color=_INK, pad=18, fontweight="bold", parse_math=False)


def _rows(timeline: Timeline) -> list[_Row]:
    """Lay out the lanes of every device, computations first; other lanes only where something took time."""
    used = {(span.device, span.lane) for span in timeline.spans if span.duration_s > 0}
    rows: list[_Row] = []
    top = 0.06
    for device in range(timeline.num_devices):
        for lane in _DEVICE_LANES:
            if lane == Lane.COMPUTE.value or (device, lane) in used:
                rows.append(_Row(device, lane, top))
                top += _ROW_INCHES[lane] + 0.03
        top += _GAP_INCHES
    for lane in (Lane.UPDATE.value, Lane.DISK.value):
        if (HOST, lane) in used:
            rows.append(_Row(HOST, lane, top))
            top += _ROW_INCHES[lane] + 0.03
    return rows


def _title(name: str, timeline: Timeline) -> str:
    """Say the name, whether it was simulated, emulated or measured, and under which policy."""
    header = timeline.header
    label = str(header.get("label", ""))
    policy = header.get("planned_by") or header.get("policy", "")
    parts = [name, *(part for part in (label, policy) if part and part not in name)]
    return "   ·   ".join([*parts, f"compute-busy {100 * timeline.utilization():.0f} %"])


def _legend(jobs: list[str], phases: list[str]) -> tuple[dict[str, str], int]:
    """Return the legend's entries by job, and in how many columns they fit beside the phases."""
    step = -(-len(jobs) // (_MAX_LEGEND - 1)) if len(jobs) > _MAX_LEGEND else 1
    names = {job: job if len(job) <= _LONGEST_NAME else f"{job[:_LONGEST_NAME]}..." for job in jobs[::step]}
    if step > 1:
        names[""] = f"(of {len(jobs)})"
    room = _WIDTH_INCHES - _LEFT_INCHES - _RIGHT_INCHES - sum(_entry_inches(PHASES[phase]) for phase in phases)
    fitting = int(room / max(map(_entry_inches, names.values())))
    return names, max(1, min(len(names), _LEGEND_COLUMNS, fitting))


def _entry_inches(name: str) -> float:
    return _LETTER_INCHES * len(name) + _PATCH_INCHES


def _legends(figure: Figure, names: dict[str, Colour | None], columns: int, phases: list[str], inches: float) -> None:
    """Write the jobs' colours at the left and the phases' shades at the right of the foot."""
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=colour or "white", label=name) for name, colour in names.items()]
    by_row = [handle for column in range(columns) for handle in handles[column::columns]]
    grey: Colour = (0.5, 0.5, 0.5)
    shades = [Patch(facecolor=_tinted(grey, TINTS[phase]), label=PHASES[phase]) for phase in phases]
    left, right = _LEFT_INCHES / _WIDTH_INCHES, 1 - _RIGHT_INCHES / _WIDTH_INCHES
    groups: list[tuple[list[Patch], int, Literal["lower left", "lower right"], float]]
    groups = [(by_row, columns, "lower left", left), (shades, len(shades), "lower right", right)]
    for group, ncols, place, x in groups:
        figure.legend(
            handles=group, loc=place, ncols=max(1, ncols), frameon=False, fontsize=9, borderaxespad=0, borderpad=0,
            bbox_to_anchor=(x, 0.14 / inches), handlelength=1.2, columnspacing=1.6, labelcolor=_INK,
        )  # fmt: skip


def _phases(timelines: Sequence[tuple[str, Timeline]]) -> list[str]:
    units = (span for _, timeline in timelines for span in timeline.spans if span.kind in _UNIT_KINDS)
    found = {ShardUnit.parse(span.unit).phase.value for span in units}
    return [phase for phase in TINTS if phase in found]


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 1000 else f"{seconds:.4g} s"


def _tinted(colour: Colour, tint: float) -> Colour:
    towards = 1.0 if tint > 0 else 0.0
    red, green, blue = (value + (towards - value) * abs(tint) for value in colour)
    return red, green, blue


def _luminance(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def save(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all, in the format of its suffix.

    Raises:
        HydraError: there is no such format.
    """
    from hydrasim.disk import replacing

    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, format=path.suffix[1:] or "png")
    except ValueError as reason:  # no such format
        raise HydraError(f"cannot write {path}: {reason}.") from None
