"""The executed ablation: every level runs, and ratios are to SHARP with double buffering."""

from experiments.figures import emulated_ablation
from tests.experiments.figures.emulated import check


def test_every_level_is_predicted_and_measured():
    frame = emulated_ablation.run(smoke=True)
    check(emulated_ablation, frame, num_rows=5)
    levels = frame.set_index("level")
    assert levels["policy"].iloc[0] == "one-model-spilling"
    full = levels.loc[emulated_ablation.FULL]
    assert full["ratio"] == full["measured_ratio"] == 1
    assert levels["ratio"].tolist() == (levels["simulated_s"] / full["simulated_s"]).tolist()
    assert levels["measured_ratio"].tolist() == (levels["measured_s"] / full["measured_s"]).tolist()
