"""Writes the README's figures from results/, so that no number is typed by hand.

python -m experiments.readme
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.report import percent, size
from hydrasim.files import write_text

ROOT = Path(__file__).resolve().parent.parent
_BEGIN, _END = "<!-- demo -->\n", "<!-- /demo -->"


def demo_block(fields: dict[str, Any]) -> str:
    """Return the demo's figures as Markdown, from its summary.json."""
    label = f"{fields['label']}, {len(fields['devices'])} CPU devices"
    identical = "yes" if fields["bit_identical"] else "no"
    lines = [
        f"| | simulated | executed ({label}) | error of the simulation |",
        "|---|---|---|---|",
        f"| best plan: {fields['policy']} | {fields['simulated_makespan_s']:.1f} s | "
        f"{fields['measured_makespan_s']:.1f} s | {100 * fields['error_fraction']:+.1f} % |",
        f"| worst work-conserving plan: {fields['worst_policy']} | {fields['worst_simulated_makespan_s']:.1f} s | "
        f"{fields['worst_measured_makespan_s']:.1f} s | {100 * fields['worst_error_fraction']:+.1f} % |",
        f"| gain | {fields['simulated_gain']:.2f}x | {fields['measured_gain']:.2f}x | |",
        "",
        f"Each device has {size(fields['device_memory_bytes'])}: {percent(fields['budget_fraction'])} of the largest "
        f"model's state, plus an activation peak of {size(fields['activation_peak_bytes'])}. Weights, optimizer state "
        f"and losses of all jobs byte-identical to the reference loop: **{identical}**. "
        f"Measured on {fields['provenance']['num_cores']} cores ({fields['provenance']['cpu']}), "
        f"torch {fields['provenance']['torch']}.",
    ]
    return "\n".join(lines) + "\n"


def updated(text: str, fields: dict[str, Any]) -> str:
    """Return the README's text with the demo's figures in place."""
    head, rest = text.split(_BEGIN)
    return head + _BEGIN + demo_block(fields) + _END + rest.split(_END)[1]


def main() -> None:
    """Rewrite README.md."""
    fields = json.loads((ROOT / "results/demo/summary.json").read_text())
    readme = ROOT / "README.md"
    write_text(readme, updated(readme.read_text(), fields))


if __name__ == "__main__":
    main()
