"""Precision: all four pairs, and what halving it changes on cards with and without fast fp16."""

from itertools import product

import pytest

from experiments.figures import precision
from experiments.figures.precision import PAPER_SPEEDUP, PRECISIONS


@pytest.fixture(scope="module")
def frame():
    return precision.run(smoke=True)


def test_keys_name_rows_and_all_pairs_are_there(frame):
    assert not frame.duplicated(list(precision.ABOUT.keys)).any()
    for _, part in frame.groupby(["machine", "rival"]):
        assert list(zip(part["hydra_precision"], part["rival_precision"], strict=True)) == [
            *product(PRECISIONS, PRECISIONS)
        ]


def test_a_ratio_is_the_rival_s_hours_over_hydra_s(frame):
    assert not frame["error"].any()
    assert frame["ratio"].tolist() == pytest.approx((frame["rival_hours"] / frame["hydra_hours"]).tolist())
    assert (frame.groupby(["machine", "hydra_precision"])["hydra_hours"].nunique() == 1).all()


def test_autocast_pays_where_fp16_is_fast_and_only_there(frame):
    hours = frame.groupby(["machine", "rival", "rival_precision"])["rival_hours"].first()
    for rival in ("model parallelism", "GPipe"):
        assert hours["8x2080ti", rival, "autocast"] < 0.5 * hours["8x2080ti", rival, "fp32"]
        # On a GTX 1080 Ti fp16 computes at the rate of fp32, and there are casts to do.
        assert 1.0 < hours["8x1080ti", rival, "autocast"] / hours["8x1080ti", rival, "fp32"] < 1.1


def test_the_paper_s_numbers_are_the_printed_speedups():
    assert PAPER_SPEEDUP["8x1080ti", "GPipe"] == pytest.approx(1.535, abs=1e-3)
    assert PAPER_SPEEDUP["8x2080ti", "GPipe"] == pytest.approx(1.918, abs=1e-3)


def test_draws_a_panel_for_each_machine_and_rival(frame):
    titles = [axes.get_title(loc="left") for axes in precision.draw(frame).axes]
    assert titles == [
        "over model parallelism, 8x1080ti", "over model parallelism, 8x2080ti", "over GPipe, 8x1080ti",
        "over GPipe, 8x2080ti",
    ]  # fmt: skip
