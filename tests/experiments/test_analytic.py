"""The experiment that holds the roofline against this CPU: its rows and its calibration, not its numbers."""

from __future__ import annotations

import pytest

from experiments.analytic import Sample, calibrated, report, run
from hydrasim.roofline import Kernel, Roofline


def test_every_layer_and_phase_is_measured_and_counted():
    found = run(repeats=1, widths=(64, 128))
    rows = found["rows"]
    assert [(row["width"], row["layer"], row["phase"]) for row in rows] == [
        (width, layer, phase)
        for width in (64, 128)
        for layer in ("embedding", "block", "head")
        for phase in ("forward", "backward")
    ]
    head = next(row for row in rows if row["layer"] == "head")
    assert head["flops"] == 2 * 8 * 128 * 64 * 256
    assert all(row["analytic_s"] > 0 for row in rows)
    assert len(found["quoted_rows"]) == 10
    assert "| 128 | block | backward |" in report(found)
    assert "| 64 x 512 | forward + backward |" in report(found)


def test_a_width_is_calibrated_by_the_others():
    roofline = Roofline(1024.0, 1.0)
    samples = [Sample(w, "block", "forward", (Kernel(1024, 0),), s) for w, s in ((64, 2.0), (128, 4.0))]
    assert samples[0].error_fraction(roofline) == -0.5
    assert calibrated(roofline, samples, without=64).flops_per_s == pytest.approx(256.0)
    assert samples[0].error_fraction(calibrated(roofline, samples, without=128)) == pytest.approx(0.0)
