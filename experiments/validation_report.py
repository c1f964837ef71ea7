"""A validation for people: a Markdown report and a picture, beside the numbers in summary.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.fidelity import MAX_SPREAD_FRACTION, NAIVE_ERRS_FRACTION, CaseResult, PlanResult, Validation
from experiments.report import percent, seconds, signed_percent
from hydrasim.causes import CAUSES
from hydrasim.disk import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {
    "compute": "#0072B2", "h2d": "#E69F00", "d2h": "#D55E00", "peer": "#56B4E9", "disk": "#F0E442", "host": "#CC79A7",
    "wait": "#009E73", "overhead": "#8A8F98",
}  # fmt: skip
_INK = "#333333"


def write_report(validation: Validation, folder: Path) -> None:
    """Write report.md and report.png into the folder."""
    write_text(folder / "report.md", markdown(validation))
    draw(validation).savefig(folder / "report.png", dpi=110)


def markdown(validation: Validation) -> str:
    """Return the report: the figures, every case with every repeat, causes, and what distortion would do."""
    fields = validation.summary()
    label = " and ".join(fields["labels"])
    lines = [
        "# Validation: predicted against " + label,
        "",
        f"{fields['num_cases']} cases, {fields['num_plans']} plans, {fields['num_runs']} runs. Plans and simulated "
        "timelines were written and hashed (`predictions.json` in each case's folder) before the first unit ran. "
        "Errors are (predicted - median measured) / median measured; no plan and no repeat is left out.",
        "",
        *_provenance(validation),
        "![Every plan: error, repeats, naive predictor, causes](report.png)",
        "",
        *_table(("figure", "value"), _headline(validation)),
        "",
        "## Every plan",
        "",
        "*naive* is the error of max(total compute / devices, longest job, bytes / bandwidth). *spread* is the "
        f"distance of the worst repeat from the median; above {percent(MAX_SPREAD_FRACTION, 1)} it is marked (!), and "
        "such a plan says little. *memory* is the predicted peak over the found one, of the device where they differ "
        "most: of the two parts, activations are measured, while what lies in the arena follows from the plan.",
    ]
    for case in validation.cases:
        lines += ["", f"### {case.name}", "", _about(case), "", *_table(_COLUMNS, map(_row, case.plans))]
    lines += [
        "",
        "## Residuals by cause",
        "",
        "Simulated minus measured, in % of the measured makespan; a row adds up to the error of the mean run. Every "
        "moment of a device has one cause: it computes, or its next unit waits for a copy in (h2d) or out (d2h), for "
        "what devices send (peer), the disk, its loader (host), for another device or its turn (wait), or to be "
        "dispatched (overhead).",
        "",
        *_table(("plan", *CAUSES), (_residual_row(case, plan) for case in validation.cases for plan in case.plans)),
    ]
    return "\n".join(lines) + "\n"


_COLUMNS = ("policy", "simulated", "measured, every repeat", "error", "naive", "spread", "replay", "memory")


def _headline(validation: Validation) -> list[tuple[str, str]]:
    fields = validation.summary()
    perturbed = fields["median_error_fraction_if_perturbed"]
    optional = {name: fields[name] for name in ("skill", "kendall_tau")}
    skill, tau = ("-" if value is None else f"{value:.3f}" for value in optional.values())
    return [
        ("median error", percent(fields["median_error_fraction"], 1)),
        ("90th percentile", percent(fields["p90_error_fraction"], 1)),
        ("worst", percent(fields["max_error_fraction"], 1)),
        ("mean signed error", signed_percent(fields["mean_signed_error_fraction"])),
        ("median error of the naive predictor", percent(fields["naive_median_error_fraction"], 1)),
        (
            f"skill over the {fields['num_plans_naive_wrong']} plans, in {fields['num_cases_naive_wrong']} cases, "
            f"where the naive predictor errs by more than {percent(NAIVE_ERRS_FRACTION, 1)}",
            skill,
        ),
        ("repeat spread, median / largest", f"{percent(fields['median_repeat_spread_fraction'], 1)} / "
         f"{percent(fields['max_repeat_spread_fraction'], 1)} ({fields['num_invalid_plans']} plans above the limit)"),
        (f"Kendall's tau over {fields['num_separable_pairs']} pairs that repeats tell apart", tau),
        ("cases whose chosen plan is the best", f"{fields['num_top1']} of {fields['num_cases']}"),
        ("regret of the chosen plan, mean / largest",
         f"{percent(fields['regret_fraction'], 1)} / {percent(fields['max_regret_fraction'], 1)}"),
        ("runs out of memory", str(fields["num_oom"])),
        ("memory, median error of the peak", percent(fields["memory_error_fraction"], 1)),
        ("replay of measured durations, largest error", f"{100 * fields['replay_error_fraction']:.2f} %"),
        *((f"median error if the profile were off: {name}", percent(value, 1)) for name, value in perturbed.items()),
    ]  # fmt: skip


def _provenance(validation: Validation) -> list[str]:
    """Say on what machines and when the cases were measured, a line for each machine."""
    moments: dict[str, list[str]] = {}
    for case in validation.cases:
        found = dict(case.about.get("provenance", {}))
        moment = str(found.pop("measured_at", ""))
        moments.setdefault(", ".join(f"{name} {value}" for name, value in found.items()), []).append(moment)
    return [line for host, at in moments.items() for line in (f"Measured {min(at)} to {max(at)} on: {host}.", "")]


def _about(case: CaseResult) -> str:
    about = case.about
    link, attempts = about.get("link_bytes_per_s"), about.get("num_attempts", 1)
    parts = (
        about.get("mix", ""),
        f"budget {about['budget']}" if "budget" in about else "",
        f"{about.get('num_devices', '?')} devices",
        "copies at memory speed" if link is None else f"emulated links of {link / (1 << 20):.0f} MiB/s",
        "shared" if about.get("shared_link") else "",
        "" if about.get("prefetch", True) else "no prefetch",
        f"run {attempts} times, this is the last" if attempts > 1 else "",
    )
    return f"{', '.join(filter(None, parts))}; {about.get('num_units', '?')} units; {case.label}."


def _row(plan: PlanResult) -> tuple[str, ...]:
    return (
        plan.policy,
        seconds(plan.simulated_s),
        ", ".join(f"{value:.2f}" for value in plan.measured_s),
        signed_percent(plan.error_fraction),
        signed_percent(plan.naive_error_fraction),
        percent(plan.spread_fraction, 1) + ("" if plan.is_valid else " (!)"),
        f"{100 * plan.replay_error_fraction:.2f} %",
        signed_percent(plan.memory_error_fraction),
    )


def _residual_row(case: CaseResult, plan: PlanResult) -> tuple[str, ...]:
    return (f"{case.name}: {plan.policy}", *(f"{100 * plan.residuals[cause]:+.1f}" for cause in CAUSES))


def _table(columns: Sequence[str], rows: object) -> list[str]:
    body = [f"| {' | '.join(row)} |" for row in rows]  # type: ignore[attr-defined]
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *body]


def draw(validation: Validation) -> Figure:
    """Draw one row a plan: the simulation's error over every repeat, the naive one's, and the causes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    num_rows = len(validation.plans) + len(validation.cases)
    figure = Figure(figsize=(12, 1.4 + 0.19 * num_rows), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    error, naive, causes = figure.subplots(1, 3, sharey=True, width_ratios=(3, 2, 3))
    labels: list[tuple[float, str, bool]] = []
    y = 0.0
    for case in validation.cases:
        labels.append((y, case.name, True))
        for plan in case.plans:
            y += 1
            labels.append((y, plan.policy, False))
            against = [100 * (plan.simulated_s / value - 1) for value in plan.measured_s]
            error.plot((min(against), max(against)), (y, y), color=_COLOURS["compute"], linewidth=1)
            error.plot(against, [y] * len(against), "|", color=_COLOURS["compute"], markersize=5)
            error.plot(100 * plan.error_fraction, y, "o", color=_COLOURS["compute"], markersize=4)
            naive.plot(100 * plan.naive_error_fraction, y, "o", color=_COLOURS["d2h"], markersize=4, fillstyle="none")
            _stack(causes, y, plan)
        y += 1
    _finish_axes(error, naive, causes, labels)
    patches = [Patch(color=colour, label=cause) for cause, colour in _COLOURS.items()]
    figure.legend(handles=patches, fontsize=8, ncols=len(CAUSES), loc="outside lower right", frameon=False)
    summary = validation.summary()
    figure.suptitle(
        f"Simulated against {' and '.join(summary['labels'])}: median error "
        f"{percent(summary['median_error_fraction'], 1)}, naive {percent(summary['naive_median_error_fraction'], 1)}",
        fontsize=11, color=_INK,
    )  # fmt: skip
    return figure


def _stack(axes: Axes, y: float, plan: PlanResult) -> None:
    """Draw the residuals as bars side by side, too long ones to the right and too short ones to the left."""
    ends = {True: 0.0, False: 0.0}
    for cause in CAUSES:
        value = 100 * plan.residuals.get(cause, 0.0)
        axes.barh(y, value, left=ends[value > 0], height=0.7, color=_COLOURS[cause])
        ends[value > 0] += value


def _finish_axes(error: Axes, naive: Axes, causes: Axes, labels: list[tuple[float, str, bool]]) -> None:
    error.set_yticks([y for y, _, _ in labels], [text for _, text, _ in labels], fontsize=7)
    for tick, (_, _, is_case) in zip(error.get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if is_case else "normal")
    error.set_ylim(labels[-1][0] + 0.8, -0.8)
    for axes, title in (
        (error, "error of the simulation, %\n(dot: median, ticks: repeats)"),
        (naive, "error of the naive\npredictor, %"),
        (causes, "simulated minus measured by cause,\n% of the makespan"),
    ):
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.set_title(title, fontsize=9, color=_INK)
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=7)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
