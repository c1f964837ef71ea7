"""One device and two, executed: both from one profile, speedups over one device."""

import pytest

from experiments.figures import emulated_scaling
from tests.experiments.figures.emulated import check


def test_one_device_and_two_are_predicted_and_measured():
    frame = emulated_scaling.run(smoke=True)
    check(emulated_scaling, frame, num_rows=2)
    assert frame["num_devices"].tolist() == [1, 2]
    one, two = frame.itertuples()
    assert one.ratio == one.measured_ratio == 1
    assert two.ratio == one.simulated_s / two.simulated_s
    assert two.measured_ratio == pytest.approx(one.measured_s / two.measured_s)
