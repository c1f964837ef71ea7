"""More devices than models help nobody, and the quoted points are the paper's."""

from __future__ import annotations

from experiments.figures import num_gpus


def test_the_smoke_run_has_a_row_a_number_of_gpus_and_costs_and_can_be_drawn():
    frame = num_gpus.run(True)
    assert list(zip(frame["num_gpus"], frame["costs"], strict=True)) == [
        (2, "zero-constant"), (2, "calibrated"), (3, "zero-constant"), (3, "calibrated"),
    ]  # fmt: skip
    assert not frame.duplicated(list(num_gpus.ABOUT.keys)).any()
    assert frame["ratio"].notna().all()
    two, three = (frame[frame["num_gpus"] == count].set_index("costs")["ratio"] for count in (2, 3))
    assert (three > two).all()
    assert len(num_gpus.draw(frame).axes) == 3


def test_the_papers_speedups_are_those_of_its_text():
    assert [(point.num_gpus, point.speedup) for point in num_gpus.POINTS][:3] == [(2, 1.84), (3, 2.78), (4, 3.71)]
    for point in num_gpus.POINTS:
        assert (point.num_models, point.num_parameters) == (4, 250e6)
        assert point.speedup <= min(point.num_models, point.num_gpus)
