"""Claims about the figures: what our simulator, or our executor, makes of each of the paper's ratios.

A tolerance is around our own value. How far that is from the paper's is a finding, told in the figure's table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from experiments.claims.claim import Claim, Expected, Label, Of, Unit, at_least, at_most, exactly, near, within

_TWICE = (
    "for run in a b; do hydrasim experiment end-to-end --smoke -o $OUT/$run >$OUT/log; done; "
    "sha256sum $OUT/*/*/data.csv | cut -d' ' -f1 | sort -u | wc -l"
)
_SAME_TABLES = (
    "hydrasim experiment all -o $OUT >$OUT/log; for made in $OUT/*/data.csv; do "
    "cmp -s $made results/${made#$OUT/} || echo $made; done | wc -l"
)
_SAME = near(0.02, "small changes of the model")
_SIMULATED: Label = "simulated"
_COSTS = (("zero-constant", "", ""), ("calibrated", "-calibrated", ", one constant fitted"))


def _ratio(
    figure: str, name: str, text: str, row: Mapping[str, str], paper: float | None = None, *, minutes: float,
    column: str = "ratio", expected: Expected = _SAME, label: Label = _SIMULATED, of: Of = "median", unit: Unit = "x",
) -> Claim:  # fmt: skip
    """Claim a ratio in one row of a figure's table, or what several rows come to."""
    command, file = f"hydrasim experiment {figure} -o $OUT", f"{figure}/data.csv"
    return Claim(f"{figure}-{name}", text, command, expected, label, minutes, file, (row, column), unit, paper, of=of)


def _end_to_end() -> Iterable[Claim]:
    papers = {
        "2021": {"wikitext-2": {"Hydra": 7.46, "GPipe": 4.86}, "cifar-10": {"Hydra": 7.36, "GPipe": 4.95}},
        "2022": {"wikitext-2": {"Hydra": 7.46, "GPipe": 3.89}, "cifar-10": {"Hydra": 7.36, "GPipe": 3.79}},
    }
    for version, tasks in papers.items():
        for task, systems in tasks.items():
            for system, paper in systems.items():
                for costs, suffix, fitted in _COSTS:
                    text = f"Fig. 8 ({version}), {task}: {system}'s speedup over model parallelism{fitted}"
                    row = {"version": version, "task": task, "system": system, "costs": costs}
                    name = f"{version}-{system.lower()}-{task}{suffix}"
                    yield _ratio("end-to-end", name, text, row, paper, minutes=4)


def _scaling() -> Iterable[Claim]:
    for figure, kind, papers in (
        ("num-gpus", "Fig. 9B: Hydra's speedup over {}, four models on {} GPUs", {2: 1.84, 3: 2.78, 4: 3.71}),
        ("num-models", "Fig. 9A: Hydra's speedup over {}, {} models on eight GPUs", {2: 1.78, 16: 7.13}),
    ):
        for count, paper in papers.items():
            for column, suffix, baseline in (
                ("ratio", "", "model parallelism that recomputes"),
                ("ratio_keeping", "-keeping", "model parallelism that keeps activations"),
            ):
                for costs, costs_suffix, fitted in _COSTS:
                    row = {figure.replace("-", "_"): str(count), "costs": costs}
                    text = kind.format(baseline, count) + fitted
                    yield _ratio(
                        figure, f"{count}{suffix}{costs_suffix}", text, row, paper, minutes=1, column=column
                    )  # fmt: skip


def _model_scale() -> Iterable[Claim]:
    for model, paper in (("100M", 7.20), ("900M", 7.43)):
        for costs, suffix, fitted in _COSTS:
            text = f"Fig. 10: Hydra's speedup over model parallelism that recomputes, twelve models of {model}{fitted}"
            row = {"model": model, "batch_size": "16", "costs": costs}
            yield _ratio("model-scale", f"{model.lower()}{suffix}", text, row, paper, minutes=2)


def _loading_zone() -> Iterable[Claim]:
    for machine, default in (("8x1080ti", "0.15"), ("8x2080ti", "0.05")):
        for name, zone, which in (("default", default, f"the paper's default of {default}"), ("none", "0", "no zone")):
            row = {"machine": machine, "zone_fraction": zone, "cuts_for_zone_fraction": zone}
            text = f"Loading zone on {machine}: makespan with {which} over that with the best of seven zones"
            yield _ratio("loading-zone", f"{machine}-{name}", text, row, minutes=2)


def _throughput() -> Iterable[Claim]:
    for rival, name in (("GPipe, best", "gpipe"), ("ZeRO-3 offload, best", "zero3")):
        for machine in ("8x1080ti", "8x2080ti", "8xa100-40gb"):
            for column, kind, how in (("ratio_in_fp32", "-fp32", "in fp32 too"), ("ratio", "", "as released")):
                text = (
                    f"Twelve GPT-2 XL on {machine}, 1.5 to 2 in the abstract of v5 to v7: throughput of Hydra, {how}, "
                    f"over that of {rival.partition(',')[0]}'s best settings"
                )
                row = {"machine": machine, "num_devices": "8", "system": rival}
                yield _ratio("throughput", f"{name}-{machine}{kind}", text, row, minutes=2, column=column)


def _crossover() -> Iterable[Claim]:
    for gb_per_s, expected in (("50", _SAME), ("12", exactly(0))):
        text = (
            f"Share of fields, by jobs and devices, where SHARP beats all rivals with links of {gb_per_s} GB/s and a "
            "model that does not fit eight devices together"
        )
        row = {"model": "41B: fits not even eight", "link_gb_per_s": gb_per_s}
        yield _ratio(
            "crossover", f"{gb_per_s}gb", text, row, minutes=2, expected=expected, of="share above 1", unit="%"
        )  # fmt: skip


def _ablation() -> Iterable[Claim]:
    for name, level, paper in (
        ("no-buffer", "no buffering", 2.3),
        ("plain-copies", "plain copies", 2.3),
        ("no-sharp", "no SHARP, no buffering", 13.05),
        ("no-sharp-plain-copies", "no SHARP, plain copies", 13.05),
    ):
        for costs, suffix, fitted in _COSTS:
            text = f"Table 3, models of 1B: runtime with {level} over Hydra's{fitted}"
            row = {"model": "1B", "level": level, "costs": costs}
            yield _ratio("ablation", f"{name}{suffix}", text, row, paper, minutes=3)


def _optimum() -> Iterable[Claim]:
    for name, transfers in (("theory", "False"), ("transfers", "True")):
        where = "with transfers" if transfers == "True" else "without transfers"
        text = f"Sharded-LRTF's makespan over the best known plan's, median of 52 small instances {where}"
        row = {"policy": "sharded-lrtf", "transfers": transfers}
        yield _ratio("optimum", name, text, row, minutes=2, column="ratio_to_plan")


def _executed() -> Iterable[Claim]:
    for figure, what in (
        ("ablation", "without SHARP, double buffering or spilling"),
        ("scaling", "on one device and on two"),
        ("model-size", "of ever larger models"),
        ("loading-zone", "with loading zones of 0 to 25 %"),
        ("prefetch", "with and without double buffering, on links of three speeds"),
    ):
        yield _ratio(
            f"emulated-{figure}", "error", f"The largest error of predicted makespans {what}, against executed ones",
            {"label": "emulated"}, minutes=2, column="error_fraction", expected=within(0.15, "a shared machine"),
            label="emulated", of="largest", unit="%",
        )  # fmt: skip
    floors = {"model-parallel": (1.7, 12 / 6), "task-parallel": (1.15, 8 / 6)}
    for policy, (floor, paper) in floors.items():
        yield _ratio(
            "emulated-fig6", policy, f"Fig. 6 executed: makespan of {policy} over SHARP's", {"policy": policy}, paper,
            minutes=2, column="measured_ratio", expected=at_least(floor, "a shared machine"), label="emulated",
        )  # fmt: skip


FIGURE_CLAIMS = (
    Claim("same-figure", "A simulated figure made twice: how many different tables, byte for byte", _TWICE, exactly(1),
          "simulated", 0.5, quick=True),
    Claim("same-tables", "How many tables of simulated figures come out otherwise than they are published, by a byte",
          _SAME_TABLES, exactly(0), "simulated", 15),
    *_end_to_end(),
    *_scaling(),
    *_model_scale(),
    *_ablation(),
    *_loading_zone(),
    _ratio("scheduler", "sharded-lrtf", "Fig. 7: makespan of Sharded-LRTF over the lower bound, the largest of eight "
           "settings", {"policy": "sharded-lrtf"}, minutes=1, expected=at_most(1.0001), of="largest"),
    *_throughput(),
    *_crossover(),
    *_optimum(),
    _ratio("largest-model", "k80", "Largest model on a K80 by spilling, over what its memory holds without",
           {"card": "K80", "way": "spilling (Hydra)", "precision": "autocast"}, 110e9 / 850e6, minutes=0.7,
           label="analytic"),
    *_executed(),
)  # fmt: skip
