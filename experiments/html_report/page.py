"""The page itself: one HTML file with its styles, script, pictures and data inside, that asks nothing of anybody.

What comes from files is escaped by the template, or is text that the script never reads as HTML. Should something
slip through, the page's policy runs only the script and the styles whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined

from experiments.html_report.collect import Report
from experiments.html_report.timelines import run_fields
from experiments.report import percent, seconds, signed_percent, size
from hydrasim.causes import CAUSES
from hydrasim.gantt import PHASES, TINTS

SCRIPTS = ("view.js", "chart.js", "lanes.js", "counters.js", "details.js", "page.js")  # in the order of their needs
LABELS = {
    "simulated": "computed by the discrete-event simulator, from profiled or stated costs",
    "emulated": "really executed and timed, on worker processes with a memory budget instead of GPUs",
    "measured": "executed and timed on the hardware named",
    "quoted": "copied from a publication, not reproduced",
    "analytic": "from counted operations and bytes, and a card's peak rates",
}


@dataclass(frozen=True)
class Origin:
    """How the page was made, and when."""

    command: str
    made_at: datetime


def page(report: Report, origin: Origin) -> str:
    """Return the page as HTML."""
    style, script = _asset("style.css"), "\n".join(map(_asset, SCRIPTS))
    environment = Environment(
        loader=PackageLoader("experiments.html_report", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters |= {
        "seconds": seconds, "size": size, "percent": percent, "signed_percent": signed_percent,
        "cell": cell, "data_uri": _data_uri, "hue": hue,
    }  # fmt: skip
    return environment.get_template("page.html").render(
        report=report,
        origin=origin,
        version=version("hydrasim"),
        labels=LABELS,
        causes=CAUSES,
        data={"runs": [run_fields(run) for run in report.runs], "phases": PHASES, "tints": TINTS},
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def cell(text: str, column: str) -> str:
    """Write a cell of a table of data for people: fractions that end so in %, numbers with four digits."""
    try:
        value = float(text)
    except ValueError:
        return text
    if column.endswith("_fraction"):
        return signed_percent(value) if "error" in column else percent(value, 1)
    whole = text.strip().lstrip("-").isdigit()
    return f"{int(text):,}" if whole else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def hue(label: str) -> str:
    """Return which of the known labels a label begins with, for its colour."""
    return next((name for name in LABELS if label.startswith(name)), "other")


def _asset(name: str) -> str:
    return resources.files("experiments.html_report").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
