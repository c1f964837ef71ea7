"""A tiny folder of results, and one whose files try to get a script into the page."""

import json
from pathlib import Path

from hydrasim import Timeline
from hydrasim.timeline import Span

HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8ffff3f0005fe02fe"
    "dccc59e70000000049454e44ae426082"
)


# h2d:0      L . . . .     loads A's parameters, 64 bytes
# compute:0  . A A B B
# d2h:0      . . . . S     runs from 4 to 5, beside B's end
def timeline(label: str = "simulated", late_s: float = 0.0, **header: object) -> Timeline:
    """Return two units on one device, all of it `late_s` later than drawn, and a fetch on the host."""
    spans = (
        Span(0, "fetch", -1, "host", "A/F0#0", 0.0, 0.5),
        Span(1, "load", 0, "h2d", "A/F0#0", late_s, 1.0 + late_s, block="A/w0", nbytes=64, after=(0,)),
        Span(2, "compute", 0, "compute", "A/F0#0", 1.0 + late_s, 3.0 + late_s, after=(1,), live_bytes=64),
        Span(3, "compute", 0, "compute", "B/B0#0", 3.0 + late_s, 5.0 + late_s, after=(2,), live_bytes=128),
        Span(4, "store", 0, "d2h", "A/F0#0", 4.0 + late_s, 5.0 + late_s, block="A/x1#0", nbytes=32, after=(2,)),
    )
    return Timeline(spans, {"label": label, "policy": "fifo", "num_devices": 1, **header})


def hostile_timeline() -> Timeline:
    """Return a timeline with markup wherever a name may stand."""
    spans = (
        Span(0, "load", 0, "h2d", "A/F0#0", 0.0, 1.0, block=HOSTILE, nbytes=64),
        Span(1, "compute", 0, "compute", "A/F0#0", 1.0, 2.0, after=(0,), eligible=(HOSTILE,), live_bytes=64),
    )
    return Timeline(spans, {"label": HOSTILE, "policy": HOSTILE, "num_devices": 1})


def comparison(policy: str = "fifo", error: str = "does not fit") -> dict:
    """Return what `hydrasim compare --json` prints."""
    row = {"policy": policy, "makespan_s": 6.0, "ratio_to_bound": 1.5, "utilization": 0.5, "moved_bytes": 64}
    failed = dict.fromkeys(row) | {"policy": "random", "error": error}
    return {"label": "simulated", "effects": "theory", "seed": 0, "bounds": {"work": 4.0, "path": 3.0}, "naive_s": 5.0,
            "rows": [failed, row]}  # fmt: skip


def demo() -> dict:
    return {
        "label": "emulated", "devices": ["cpu"], "policy": "fifo", "simulated_makespan_s": 5.0,
        "measured_makespan_s": 6.0, "error_fraction": -0.16, "worst_policy": "random",
        "worst_measured_makespan_s": 9.0, "simulated_gain": 1.6, "measured_gain": 1.5, "bit_identical": True,
        "policies": {"fifo": 5.0, "random": 8.0, "lrtf": None}, "lower_bound_s": 4.0, "naive_s": 4.5,
        "losses": {"A": {"before": 2.0, "after": 1.0}, "B": {"before": 2.0, "after": 1.0}},
    }  # fmt: skip


def plan(policy: str, error_fraction: float) -> dict:
    return {"policy": policy, "simulated_s": 5.0, "measured_s": [6.0, 5.0, 7.0], "error_fraction": error_fraction,
            "naive_error_fraction": -0.25, "spread_fraction": 0.02}  # fmt: skip


def validation() -> dict:
    return {
        "labels": ["emulated"], "num_cases": 1, "num_plans": 3, "num_runs": 9, "median_error_fraction": 0.0625,
        "p90_error_fraction": 0.125, "max_error_fraction": 0.125, "naive_median_error_fraction": 0.25,
        "median_repeat_spread_fraction": 0.02, "kendall_tau": None, "num_separable_pairs": 0, "regret_fraction": 0.0,
        "num_top1": 1, "num_oom": 0, "replay_error_fraction": 0.0,
        "cases": [{"name": "case", "label": "emulated", "plans": [
            plan("fifo", 0.03125), plan("random", -0.125), plan("lrtf", 0.0625),
        ]}],
    }  # fmt: skip


def write_figure(folder: Path, title: str = "Fig. 8", **fields: object) -> None:
    """Write a figure's run.json, data.csv and figure.png."""
    folder.mkdir(parents=True)
    run = {"name": folder.name, "title": title, "command": f"hydrasim experiment {folder.name}", "label": "simulated"}
    (folder / "run.json").write_text(json.dumps(run | fields))
    (folder / "data.csv").write_text("system,ratio,error_fraction,label\ngpipe,3.9,-0.0487,simulated\nddp,12,,quoted\n")
    (folder / "figure.png").write_bytes(PNG)


def write_results(folder: Path) -> None:
    """Write a folder with a bit of everything."""
    for name, summary in (("demo", demo()), ("validation", validation())):
        (folder / name).mkdir(parents=True)
        (folder / name / "summary.json").write_text(json.dumps(summary))
    for side, late_s in (("simulated", 0.0), ("measured", 1.0)):
        label = "simulated" if side == "simulated" else "emulated"
        timeline(label, late_s).write(folder / "demo" / f"{side}-best.jsonl")
    (folder / "validation" / "case").mkdir()
    timeline().write(folder / "validation" / "case" / "simulated-random.jsonl.gz")
    timeline("emulated").write(folder / "validation" / "case" / "measured-random-0.jsonl.gz")
    write_figure(folder / "fig10", "Scheduler study", source="Fig. 10", smoke=True)
    write_figure(folder / "fig8", "Training end to end", source="Fig. 8", note="We charge copies.")
    (folder / "engine").mkdir()
    (folder / "engine" / "summary.json").write_text('{"label": "measured", "command": "python -m experiments.engine"}')
    (folder / "other").mkdir()
    (folder / "other" / "summary.json").write_text('{"rows": []}')
