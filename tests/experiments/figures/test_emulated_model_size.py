"""Model size, executed: ratios are of seconds a parameter, to the smallest models'."""

import pytest

from experiments.figures import emulated_model_size
from tests.experiments.figures.emulated import check


def test_every_size_is_predicted_and_measured():
    frame = emulated_model_size.run(smoke=True)
    check(emulated_model_size, frame, num_rows=2)
    small, large = frame.itertuples()
    block = 12 * 256**2 + 13 * 256  # a transformer block's weights; its biases and norms
    assert large.num_parameters - small.num_parameters == block
    assert large.state_over_memory / small.state_over_memory == large.num_parameters / small.num_parameters
    assert small.ratio == small.measured_ratio == 1
    growth = large.num_parameters / small.num_parameters
    assert large.ratio == pytest.approx(large.simulated_s / small.simulated_s / growth)
    assert large.measured_ratio == pytest.approx(large.measured_s / small.measured_s / growth)
