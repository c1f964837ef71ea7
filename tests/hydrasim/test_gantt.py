"""The picture: its panels, rows, bars, colours and words."""

import subprocess
import sys

import pytest

from hydrasim import HYDRA_RELEASED, Cluster, Device, Link, Shard, Timeline, TrainingJob, Workload, simulate
from hydrasim.errors import HydraError, TimelineError
from hydrasim.gantt import draw
from hydrasim.planning import make_plan
from hydrasim.presets import make_preset
from hydrasim.timeline import Span

FIG6 = make_preset("paper-fig6")


def fig6(policy: str) -> Timeline:
    return simulate(FIG6.workload, FIG6.cluster, policy, effects="theory")


def spilling(**options) -> Timeline:
    shard = Shard(1.0, 1.0, parameter_bytes=1024, output_bytes=64)
    workload = Workload(tuple(TrainingJob(name, (shard,) * 2, 2) for name in "AB"))
    return make_plan(workload, Cluster.of(2, Device(4096, h2d=Link(1024.0), d2h=Link(1024.0))), "fifo", **options)[1]


def words(axes) -> set[str]:
    return {text.get_text() for text in axes.texts}


def faces(axes) -> list[tuple[float, ...]]:
    return [tuple(face) for face in axes.collections[0].get_facecolors()]


def test_panels_share_one_time_axis():
    figure = draw([("simulated", fig6("model-parallel")), ("simulated", fig6("sharded-lrtf"))])
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert first.get_xlim()[1] >= 12.0
    assert "12 s" in words(first)
    assert "6 s" in words(second)


def test_the_title_says_label_and_policy():
    (axes,) = draw([("run 1", fig6("task-parallel"))]).axes
    assert axes.get_title(loc="left") == "run 1   ·   simulated   ·   task-parallel   ·   compute-busy 75 %"
    (axes,) = draw([("measured", spilling())]).axes
    assert "measured" in axes.get_title(loc="left")
    assert "fifo" in axes.get_title(loc="left")  # who planned, not follow-plan


def test_copy_rows_are_left_out_where_nothing_is_copied():
    (axes,) = draw([("simulated", fig6("fifo"))]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["device 0", "device 1"]
    (axes,) = draw([("simulated", spilling())]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "device 0",
        "h2d",
        "d2h",
        "device 1",
        "h2d",
        "d2h",
    ]


SYSTEM = Timeline(
    (
        Span(0, "read", -1, "disk", "A/F0#0", 0.0, 1.0),
        Span(1, "compute", 0, "compute", "A/F0#0", 0.0, 1.0),
        Span(2, "send", 0, "peer", "A/F0#0", 1.0, 2.0, peer=1),
        Span(3, "compute", 1, "compute", "A/L1#0", 2.0, 3.0),
        Span(4, "update", 1, "host", "A/U1#0", 3.0, 4.0),
        Span(5, "compute", 0, "compute", "A/U0#0", 3.0, 4.0),
        Span(6, "load", 1, "h2d", "A/F0#0", 1.0, 1.0),
    ),
    {"num_devices": 2},
)


def test_peer_host_and_disk_have_rows_where_they_take_time():
    figure = draw([("gpipe", SYSTEM)])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["device 0", "peer", "device 1", "host", "disk"]
    assert len(figure.axes[0].collections[0].get_paths()) == 6
    assert [text.get_text() for text in figure.legends[1].get_texts()] == [
        "forward", "forward + backward", "update"
    ]  # fmt: skip


def test_a_lone_sliver_is_widened_and_a_crowd_keeps_its_share():
    lone = Timeline(
        (Span(0, "compute", 0, "compute", "A/F0#0", 0.0, 1e-6), Span(1, "store", 0, "d2h", "A/F0#0", 1e-6, 4.0))
    )
    crowd = Timeline(tuple(Span(i, "compute", 0, "compute", "A/F0#0", i, i + 0.5) for i in range(10_000)))
    for timeline, is_widened in ((lone, True), (crowd, False)):
        (axes,) = draw([("simulated", timeline)]).axes
        first = axes.collections[0].get_paths()[0].vertices[:, 0]
        assert (first.max() - first.min() > timeline.spans[0].duration_s) == is_widened


def test_long_names_leave_the_legends_apart():
    names = [f"bert-large-uncased-lr{index}e-5-{'x' * 40}" for index in range(12)]
    workload = Workload(tuple(TrainingJob(name, (Shard(1.0, 1.0),), 1) for name in names))
    figure = draw([("simulated", simulate(workload, Cluster.of(1, Device(1)), "fifo", effects="theory"))])
    figure.canvas.draw()
    jobs, phases = (legend.get_window_extent() for legend in figure.legends)
    assert jobs.x1 <= phases.x0
    assert jobs.y1 <= figure.axes[0].xaxis.label.get_window_extent().y0
    assert all(len(text.get_text()) == 43 for text in figure.legends[0].get_texts())


def test_every_span_of_a_device_is_a_bar():
    timeline = spilling()
    (axes,) = draw([("simulated", timeline)]).axes
    assert len(axes.collections[0].get_paths()) == sum(span.device >= 0 for span in timeline.spans)


def test_jobs_have_colours_and_phases_have_shades():
    (axes,) = draw([("simulated", fig6("fifo"))]).axes
    assert len(set(faces(axes))) == 6  # three jobs, forward and backward


def test_a_job_keeps_its_colour_in_all_panels():
    first, second = draw([("simulated", fig6("fifo")), ("simulated", fig6("random"))]).axes
    assert set(faces(first)) == set(faces(second))


def test_copies_on_the_compute_lane_are_thinner_than_computations():
    (axes,) = draw([("simulated", spilling(mechanism=HYDRA_RELEASED))]).axes
    heights = {
        round(path.vertices[:, 1].max() - path.vertices[:, 1].min(), 3) for path in axes.collections[0].get_paths()
    }
    assert len(heights) == 2


def test_only_wide_bars_carry_text():
    (axes,) = draw([("simulated", fig6("fifo"))]).axes
    assert "A/F0#0" in words(axes)
    crowd = make_preset("paper-fig7", models=8, devices=4, units_scale=0.1)
    timeline = simulate(crowd.workload, crowd.cluster, "sharded-lrtf", effects="theory")
    (axes,) = draw([("simulated", timeline)]).axes
    assert len(axes.collections[0].get_paths()) == 1600
    assert words(axes) == {"14,400 s"}


def test_many_jobs_get_different_colours_and_a_short_legend():
    crowd = make_preset("paper-fig7", models=64, devices=8, units_scale=0.004)
    timeline = simulate(crowd.workload, crowd.cluster, "sharded-lrtf", effects="theory")
    figure = draw([("simulated", timeline)])
    assert len(set(faces(figure.axes[0]))) == 128
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) <= 16
    assert "(of 64)" in labels


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_file_takes_its_format_from_its_suffix(suffix, tmp_path):
    draw([("simulated", fig6("fifo"))], tmp_path / f"gantt.{suffix}")
    head = (tmp_path / f"gantt.{suffix}").read_bytes()[:64]
    assert {"png": b"PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix] in head


def test_what_cannot_be_drawn_or_written_says_why(tmp_path):
    with pytest.raises(TimelineError, match="no spans"):
        draw([("simulated", Timeline(()))])
    with pytest.raises(HydraError, match="cannot write"):
        draw([("simulated", fig6("fifo"))], tmp_path / "missing" / "gantt.png")
    with pytest.raises(HydraError, match="Format 'foo' is not supported"):
        draw([("simulated", fig6("fifo"))], tmp_path / "gantt.foo")


def test_pyplot_and_its_global_state_stay_out():
    code = (
        "import sys; from hydrasim import simulate; from hydrasim.gantt import draw; "
        "from hydrasim.presets import make_preset; p = make_preset('paper-fig6'); "
        "assert 'matplotlib' not in sys.modules; "
        "draw([('s', simulate(p.workload, p.cluster, 'fifo', effects='theory'))]); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
