"""Claims about the figures: what our simulator, or our executor, makes of each of the paper's ratios.

A tolerance is around our own value. How far that is from the paper's is a finding, told in the figure's table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from experiments.claims.claim import Claim, Expected, Label, at_least, exactly, near

_TWICE = (
    "for run in a b; do hydrasim experiment end-to-end --smoke -o $OUT/$run >$OUT/log; done; "
    "sha256sum $OUT/*/*/data.csv | cut -d' ' -f1 | sort -u | wc -l"
)
_SAME = near(0.02, "small changes of the model")
_SIMULATED: Label = "simulated"


def _ratio(
    figure: str, name: str, text: str, row: Mapping[str, str], paper: float | None = None, *, minutes: float,
    column: str = "ratio", expected: Expected = _SAME, label: Label = _SIMULATED,
) -> Claim:  # fmt: skip
    """Claim a ratio in one row of a figure's table."""
    command, file = f"hydrasim experiment {figure} -o $OUT", f"{figure}/data.csv"
    return Claim(f"{figure}-{name}", text, command, expected, label, minutes, file, (row, column), "x", paper)


def _end_to_end() -> Iterable[Claim]:
    papers = {"wikitext-2": {"Hydra": 7.46, "GPipe": 4.86}, "cifar-10": {"Hydra": 7.36, "GPipe": 4.95}}
    for task, systems in papers.items():
        for system, paper in systems.items():
            text = f"Fig. 8, {task}: {system}'s speedup over model parallelism"
            row = {"task": task, "system": system, "costs": "zero-constant"}
            yield _ratio("end-to-end", f"{system.lower()}-{task}", text, row, paper, minutes=3)


def _scaling() -> Iterable[Claim]:
    for count, paper in ((2, 1.84), (3, 2.78), (4, 3.71), (8, 3.65)):
        text = f"Fig. 9B: Hydra's speedup over model parallelism, four models on {count} GPUs"
        row = {"num_gpus": str(count), "costs": "zero-constant"}
        yield _ratio("num-gpus", str(count), text, row, paper, minutes=1)
    for count, paper in ((2, 1.78), (8, 7.16), (16, 7.13)):
        text = f"Fig. 9A: Hydra's speedup over model parallelism, {count} models on eight GPUs"
        row = {"num_models": str(count), "costs": "zero-constant"}
        yield _ratio("num-models", str(count), text, row, paper, minutes=1)


def _ablation() -> Iterable[Claim]:
    for name, level, paper in (("sharp", "no SHARP, no buffering", 13.05), ("buffer", "no buffering", 2.3)):
        text = f"Table 3, models of 1B: runtime with {level} over Hydra's"
        row = {"model": "1B", "level": level, "costs": "zero-constant"}
        yield _ratio("ablation", f"no-{name}", text, row, paper, minutes=3)


def _optimum() -> Iterable[Claim]:
    for name, transfers in (("theory", "False"), ("transfers", "True")):
        where = "with transfers" if transfers == "True" else "without transfers"
        text = f"Sharded-LRTF's makespan over the best plan's, median of 52 small instances {where}"
        yield _ratio("optimum", name, text, {"policy": "sharded-lrtf", "transfers": transfers}, minutes=2)


def _executed() -> Iterable[Claim]:
    floors = {"model-parallel": (1.7, 12 / 6), "task-parallel": (1.15, 8 / 6)}
    for policy, (floor, paper) in floors.items():
        yield _ratio(
            "emulated-fig6", policy, f"Fig. 6 executed: makespan of {policy} over SHARP's", {"policy": policy}, paper,
            minutes=2, column="measured_ratio", expected=at_least(floor, "a shared machine"), label="emulated",
        )  # fmt: skip


FIGURE_CLAIMS = (
    Claim("same-figure", "A simulated figure made twice: how many different tables, byte for byte", _TWICE, exactly(1),
          "simulated", 0.5, quick=True),
    *_end_to_end(),
    *_scaling(),
    *_ablation(),
    *_optimum(),
    _ratio("largest-model", "k80", "Largest model on a K80 by spilling, over what its memory holds without",
           {"card": "K80", "way": "spilling (Hydra)"}, 110e9 / 850e6, minutes=0.5),
    *_executed(),
)  # fmt: skip
