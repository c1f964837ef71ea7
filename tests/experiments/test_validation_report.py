"""What people read of a validation: every plan and repeat, and a picture of them."""

from __future__ import annotations

from pathlib import Path

from experiments.fidelity import CaseResult, PlanResult, Validation
from experiments.validation_report import draw, markdown, write_report
from hydrasim.causes import CAUSES

SECONDS = dict.fromkeys(CAUSES, 1.0)
PLANS = tuple(
    PlanResult(policy, 6.3, naive_s, (6.0, 6.5), (6.0, 6.5), {"units +30 %": (8.0,)}, SECONDS, SECONDS, (4,), (4,))
    for policy, naive_s in (("fifo", 6.0), ("random", 3.0))
)
ABOUT = {"mix": "three GPTs", "budget": "half", "link_bytes_per_s": 1 << 20, "shared_link": True, "prefetch": False}
ABOUT |= {"num_attempts": 2, "provenance": {"cpu": "a 2-core machine", "measured_at": "today"}}
VALIDATION = Validation((CaseResult("slow-link", PLANS, "emulated", ABOUT),))


def test_every_repeat_is_in_the_report():
    text = markdown(VALIDATION)
    assert "1 cases, 2 plans, 4 runs" in text
    assert "| fifo | 6.30 s | 6.00, 6.50 | +0.8 % | -4.0 % | 4.0 % (!) | 0.00 % | +0.0 % |" in text
    assert "three GPTs, budget half" in text
    assert "emulated links of 1 MiB/s, shared, no prefetch" in text
    assert "run 2 times, this is the last" in text
    assert "Measured today to today on: cpu a 2-core machine." in text
    assert "| slow-link: random | +0.0 |" in text


def test_the_picture_has_a_row_a_plan(tmp_path: Path):
    figure = draw(VALIDATION)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["slow-link", "fifo", "random"]
    write_report(VALIDATION, tmp_path)
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
