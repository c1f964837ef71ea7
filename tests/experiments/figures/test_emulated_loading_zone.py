"""The loading zone, executed: the first is none, and speedups are over it."""

from experiments.figures import emulated_loading_zone
from tests.experiments.figures.emulated import check


def test_every_zone_is_predicted_and_measured():
    frame = emulated_loading_zone.run(smoke=True)
    check(emulated_loading_zone, frame, num_rows=2)
    none, quarter = frame.itertuples()
    assert (none.zone_fraction, quarter.zone_fraction) == (0, 0.25)
    assert none.ratio == none.measured_ratio == 1
    assert quarter.ratio == none.simulated_s / quarter.simulated_s
    assert quarter.measured_ratio == none.measured_s / quarter.measured_s
