"""Writes the README's figures from results/, so that no number is typed by hand.

python -m experiments.readme
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from experiments.caution import caution
from experiments.experiment import read_frame
from experiments.figures import figure
from experiments.paper.table import paper_table
from experiments.report import percent, signed_percent, size
from hydrasim.disk import write_text

ROOT = Path(__file__).resolve().parent.parent


def demo_block(fields: dict[str, Any]) -> str:
    """Return the demo's figures as Markdown, from its summary.json."""
    label = f"{fields['label']}, {len(fields['devices'])} CPU devices"
    identical = "yes" if fields["bit_identical"] else "no"
    lines = [
        f"| | simulated | executed ({label}) | error of the simulation |",
        "|---|---|---|---|",
        f"| best plan: {fields['policy']} | {fields['simulated_makespan_s']:.1f} s | "
        f"{fields['measured_makespan_s']:.1f} s | {signed_percent(fields['error_fraction'])} |",
        f"| worst work-conserving plan: {fields['worst_policy']} | {fields['worst_simulated_makespan_s']:.1f} s | "
        f"{fields['worst_measured_makespan_s']:.1f} s | {signed_percent(fields['worst_error_fraction'])} |",
        f"| gain | {fields['simulated_gain']:.2f}x | {fields['measured_gain']:.2f}x | |",
        "",
        f"Each device has {size(fields['device_memory_bytes'])}: {percent(fields['budget_fraction'])} of the largest "
        f"model's state, plus an activation peak of {size(fields['activation_peak_bytes'])}. Weights, optimizer state "
        f"and losses of all jobs byte-identical to the reference loop: **{identical}**. "
        f"Measured on {fields['provenance']['num_cores']} cores ({fields['provenance']['cpu']}), "
        f"torch {fields['provenance']['torch']}.",
    ]
    return "\n".join(lines) + "\n"


def validation_block(fields: dict[str, Any]) -> str:
    """Return the validation's figures as Markdown, from its summary.json."""
    link = "[results/validation/](results/validation/report.md)"
    return (
        f"{fields['num_cases']} cases, {fields['num_plans']} plans, {fields['num_runs']} runs on emulated devices "
        f"({_cores(fields)}): job mixes of 3 to 8 GPTs and "
        "MLPs; budgets that fit, half and tight; copies at memory speed and slow, fast and shared emulated links; with "
        f"and without prefetch. Every plan and repeat is in {link}.\n\n"
        "| | |\n|---|---|\n"
        f"| error of the makespan, median / 90th percentile / worst | {percent(fields['median_error_fraction'], 1)} / "
        f"{percent(fields['p90_error_fraction'], 1)} / {percent(fields['max_error_fraction'], 1)} |\n"
        f"| worst repeat's distance from the median, median / worst plan | "
        f"{percent(fields['median_repeat_spread_fraction'], 1)} / {percent(fields['max_repeat_spread_fraction'], 1)} "
        f"({fields['num_invalid_plans']} plans above 3 %: a shared machine) |\n"
        f"| median error of the naive predictor | {percent(fields['naive_median_error_fraction'], 1)} |\n"
        f"| skill: our error over the naive one, where that is above 10 % | {fields['skill']:.2f} |\n"
        f"| ranking: Kendall's tau over {fields['num_separable_pairs']} pairs of plans that repeats tell apart | "
        f"{fields['kendall_tau']:.2f} |\n"
        f"| regret of the plan chosen by simulation, mean / worst | {percent(fields['regret_fraction'], 1)} / "
        f"{percent(fields['max_regret_fraction'], 1)} |\n"
        f"| runs out of memory | {fields['num_oom']} |\n"
        "| replay: measured durations in, makespan out, worst error | "
        f"{100 * fields['replay_error_fraction']:.2f} % |\n"
    )


def abuse_block(memory: dict[str, Any], hostile: dict[str, Any]) -> str:
    """Return what the memory and the hostile campaign came to, as Markdown, from their summary.json."""
    return (
        f"{memory['num_models']} random models in {memory['num_runs']} runs of one to four, each at the least memory "
        f"that the partitioner accepts for them and up to 10 % more, {memory['num_mixed_clusters']} on unequal "
        f"devices: **{memory['num_breaches']} breaches** of a budget; the margin is "
        f"{percent(memory['margin_fraction'], 1)}, "
        f"{percent(memory['needed_margin_fraction'], 1)} was needed ([results/memory/](results/memory/report.md)). "
        f"{hostile['num_simulations']:,} random simulations ({percent(hostile['feasible_fraction'])} feasible) and "
        f"{hostile['num_processes']} abused processes - damaged files, bad policies and jobs, full disks, Ctrl-C and "
        f"kills at random moments: **{hostile['num_tracebacks']} tracebacks, {hostile['num_hung']} hung, "
        f"{hostile['num_orphans']} orphans, {hostile['num_half_written']} half-written files** "
        "([results/hostile/](results/hostile/report.md)).\n"
    )


def gpu_block(wide: dict[str, Any], largest: dict[str, Any]) -> str:
    """Return what a GPU has run, from the summaries of the study and of the largest model."""
    plans = wide["validation"]["plans"]
    hidden = {row["prefetch"]: row["median_hidden_fraction"] for row in wide["overlap"]}
    makespan_s = {row["prefetch"]: row["median_makespan_s"] for row in wide["overlap"]}
    errors = [plan["error_fraction"] for plan in plans]
    exact = "not run" if wide["exactness"] is None else "yes" if wide["exactness"]["identical"] else "no"
    losses = largest["losses"]
    fell = "fall" if losses[-1] < losses[0] else "did not fall: the learning rate was too high"
    return _paragraph(
        f"Run on one {wide['environment']['gpus'][0]} with torch {wide['environment']['torch']}: the GPU tests of "
        "tests/executor/devices/test_cuda.py pass, byte-identity to the plain loop, undisturbed and under three chaos "
        "seeds, among them ([results/gpu/tests.txt](results/gpu/tests.txt)). Three GPTs of GPT-2 XL's blocks under "
        f"AdamW on {size(wide['devices'][0]['memory_bytes'])} of it: {len(plans)} plans foretold within "
        f"{percent(max(map(abs, errors)), 1)}; prefetching hides {percent(hidden[True])} of the copies' time behind "
        f"compute ({percent(hidden[False])} without), {makespan_s[False]:.2f} s become {makespan_s[True]:.2f} s; "
        f"byte-identity at that size: {exact} ([results/gpu/wide/](results/gpu/wide/report.md)). "
        f"One GPT of {largest['num_parameters'] / 1e9:.2f} billion parameters in fp32 under SGD on "
        f"{size(largest['device_budget_bytes'])} of it: {largest['step_s']:.2f} s a step, foretold within "
        f"{percent(abs(largest['error_fraction']), 1)}, the GPU busy {percent(largest['utilization'], 1)} of the time "
        f"({len(losses)} steps; the losses, {', '.join(f'{loss:.1f}' for loss in losses)}, {fell}; "
        "[results/gpu/largest/](results/gpu/largest/summary.json))."
    )


def rivals_block(found: dict[str, Any]) -> str:
    """Return how fast ours is beside real rivals, as Markdown, from the summary of the races."""
    columns = list(dict.fromkeys((name, flavour) for ratios in found["ratio_to"].values() for flavour in ratios
                                 for name in ratios[flavour]))  # fmt: skip
    lines = [f"| ours over | {' | '.join(f'{name}, {flavour}' for name, flavour in columns)} |"]
    lines.append(f"|---|{'---|' * len(columns)}")
    for rival, ratios in found["ratio_to"].items():
        cells = [ratios.get(flavour, {}).get(name) for name, flavour in columns]
        told = (
            "" if cell is None else f"{cell['value']:.2f} ({cell['low']:.2f} to {cell['high']:.2f})" for cell in cells
        )
        lines.append(f"| {rival} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def extraction_block(found: dict[str, Any]) -> str:
    """Return which public classes train unmodified, from the summary of the extraction."""
    whole = found["num_trained_identical"] == found["num_classes"]
    return _paragraph(
        f"{found['num_proven']} of {found['num_classes']} public classes tried, of transformers and in plain torch, "
        f"are proven so in at most {found['most_lines']} lines of a user's, and {found['num_trained_identical']} "
        f"trained in shards to the plain loop's bits ([results/extraction/](results/extraction/report.md)"
        f"{'' if whole else ', which says what keeps the others from it'}; `{found['command']}`). The extra `hf` "
        "installs transformers."
    )


def optimum_block(results: Path) -> str:
    """Return how far policies are from the best plans, as Markdown, from the table of the figure `optimum`."""
    optimum = figure("optimum")
    found = optimum.summary(read_frame(optimum, results / "optimum")).set_index(["policy", "transfers"])
    names, columns = ["policy"], []
    for transfers, kind in ((False, "without"), (True, "with")):
        one = found.xs(transfers, level="transfers").iloc[0]
        num_instances, num_proven = int(one["num_instances"]), int(one["num_proven"])
        all_proven = num_proven == num_instances
        names.append(f"{kind} transfers, {num_instances} instances{', all proven' if all_proven else ''}")
        columns.append((transfers, ""))
        if not all_proven:
            names.append(f"the {num_proven} proven")
            columns.append((transfers, "proven_"))
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for policy in found.xs(True, level="transfers").sort_values(["median", "worst"]).index:
        rows = ((found.loc[policy, transfers], of) for transfers, of in columns)
        cells = (f"{row[f'{of}median']:.3f} ({row[f'{of}worst']:.2f})" for row, of in rows)
        lines.append(f"| {policy} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def differs_block(results: Path) -> str:
    """Return why our ratios are not the paper's, from the tables of the figures `ablation` and `end-to-end`."""
    copies, bound = _facts(results, "ablation"), _facts(results, "end-to-end")
    return _paragraph(
        "All numbers but the paper's are simulated. Each folder's run.json says where we differ and why. Most of all "
        "it is what the paper leaves open: whether the baseline recomputes, how copies were made, how many devices a "
        "group of model+task has (with as many groups as fit it is no weak rival), batch sizes. What double buffering "
        "is worth hangs on copies: a "
        f"factor of {copies['prefetch']} if the prefetch alone is missing, where 2.3 is printed; over the released "
        f"code's copies, unpinned and blocking, {copies['plain_free']} with nothing fitted, {copies['plain']} "
        "calibrated. And 7.36, printed for CIFAR-10 in "
        "both versions, cannot be had under the paper's own rules: a model is on one device at a time, and the longest "
        f"job bounds the speedup of any plan of Hydra's units at {bound['most_2021']} in 2021 and "
        f"{bound['most_2022']} in 2022, even if copies took no time."
    )


def crossover_block(results: Path) -> str:
    """Return when not to use SHARP, from the table of the figure `crossover`."""
    facts = _facts(results, "crossover")
    return _paragraph(
        "**When not to use it**: where a model fits one device, since task parallelism is as fast and simpler; with "
        "fewer jobs than devices, whose idle ones FSDP and ZeRO-3 use; for a model that fits the devices together but "
        "not one of them, which FSDP over NVSwitch trains sooner, often by far; and under autocast over links of "
        "12 GB/s or less, as ZeRO-3 offload moves half the bytes. It pays where a model does not fit the devices "
        f"together, jobs are at least as many as devices, and links are fast: {facts['none_50']} times the best "
        f"rival's throughput at 50 GB/s, {facts['none_25']} at 25, by the better of two policies (resident-lrtf, "
        f"fifo); resident-lrtf alone does not beat the best rival in {facts['num_fifo']} of the {facts['num_won']} "
        f"fields that SHARP wins. Of all {facts['num_fields']} fields, {facts['beaten']}. "
        f"{caution(figure('crossover').ABOUT.rivals)}"
    )


def _facts(results: Path, name: str) -> dict[str, str]:
    module = figure(name)
    found: dict[str, str] = module.facts(read_frame(module, results / name))
    return found


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def figures_block(results: Path) -> str:
    """Return what each figure's folder shows, how far twice as many mini-batches move its ratios, and its command."""
    lines = ["| figure | remade by | doubling mini-batches moves ratios by |\n|---|---|---|\n"]
    for path in sorted(results.glob("*/run.json")):
        fields = json.loads(path.read_text())
        source = f", {fields['source']}" if fields["source"] else ""
        link = f"[results/{fields['name']}/](results/{fields['name']}/figure.png)"
        what = f"{link}: {fields['title']} ({fields['label']}{source})"
        lines.append(f"| {what} | `{fields['command']}` | {_moved(path.parent / 'doubling.csv')} |\n")
    return "".join(lines)


def _moved(path: Path) -> str:
    """Say how far the ratios of a doubling.csv move at most, if there is one."""
    import pandas as pd

    return f"{percent(pd.read_csv(path)['moved_fraction'].abs().max(), 2)}" if path.exists() else ""


def _cores(fields: dict[str, Any]) -> str:
    hosts = {(host["num_cores"], host["cpu"]) for case in fields["cases"] for host in [case["about"]["provenance"]]}
    return "; ".join(f"{num_cores} cores, {cpu}" for num_cores, cpu in sorted(hosts))


def updated(text: str) -> str:
    """Return the README's text with the figures of results/ in place."""
    made = {
        "demo": demo_block(_summary("demo")),
        "validation": validation_block(_summary("validation")),
        "paper": paper_table(ROOT / "results"),
        "differs": differs_block(ROOT / "results"),
        "crossover": crossover_block(ROOT / "results"),
        "optimum": optimum_block(ROOT / "results"),
        "figures": figures_block(ROOT / "results"),
        "abuse": abuse_block(_summary("memory"), _summary("hostile")),
        "rivals": rivals_block(_summary("rivals")),
        "extraction": extraction_block(_summary("extraction")),
        "gpu": gpu_block(_summary("gpu/wide"), _summary("gpu/largest")),
    }
    for name, block in made.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        head, rest = text.split(begin)
        text = head + begin + block + end + rest.split(end)[1]
    return text


def _summary(name: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((ROOT / "results" / name / "summary.json").read_text())
    return fields


def main() -> None:
    """Rewrite README.md."""
    readme = ROOT / "README.md"
    write_text(readme, updated(readme.read_text()))


if __name__ == "__main__":
    main()
