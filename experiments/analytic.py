"""How far the analytic estimate is off on this CPU: layers of GPTs, counted and timed.

    python -m experiments.analytic --output results/analytic

The peaks are measured too, a large matrix product and a large copy on one core, so nothing is quoted. The error
that is left is the roofline's own: kernels below the peaks, and caches that it knows nothing of. The calibrated
error is that at the compute efficiency at which the blocks of the other widths come out right. For a GPU there are
published times of a BERT layer, beside the same card's published peaks; those are quoted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import nn

from executor import TorchJob
from executor.analytic import AnalyticPilot
from executor.compute import backward, forward, loss_and_backward, needs_grad, step
from executor.profiler import host_provenance
from experiments.models import byte_gpt, next_byte_loss, text_loader
from hydrasim.disk import make_folder, write_text
from hydrasim.machine import Accelerator
from hydrasim.roofline import Efficiency, Kernel, Roofline, compute_fraction

WIDTHS = (256, 384, 768)
# TFLOP/s of a BERT-large layer, forward and forward + backward, by (batch, length), on an RTX 3090 Ti in fp16; there a
# product of side 8192 reaches 81.3 TFLOP/s and a large vector product 860 GB/s. The launch follows from the forward
# at (2, 128), 15.182 TFLOP/s: 0.43 ms for 29 kernels.
# Source: micro_bench.ipynb of github.com/mli/transformers-benchmarks (04df81d).
QUOTED_BERT = {
    (4, 128): (29.216, 24.224),
    (8, 128): (45.127, 45.810),
    (64, 128): (51.905, 58.354),
    (8, 512): (43.847, 48.017),
    (64, 512): (48.522, 53.846),
}
RTX_3090_TI = Roofline(81.3e12, 860e9, 15e-6)
KINDS = ("embedding", "block", "head")  # a GPT of one block is these three layers
_CONTEXT, _BATCH_SIZE = 128, 8
_PRODUCT_SIDE, _COPY_BYTES = 2048, 256 << 20


def times_s(run: Callable[[], object], repeats: int) -> list[float]:
    """Return the thread's own time of each of some runs, in seconds, after one that does not count.

    Not wall-clock time: who else computes on this machine is not what is asked.
    """
    found = []
    for _ in range(repeats + 1):
        started = time.thread_time()
        run()
        found.append(time.thread_time() - started)
    return found[1:]


def measured_peaks(repeats: int) -> Accelerator:
    """Measure what one core of this machine attains: FLOP/s of a large product, bytes a second of a large copy."""
    left, right = torch.randn(2, _PRODUCT_SIDE, _PRODUCT_SIDE).unbind()
    source, target = torch.ones(2, _COPY_BYTES // 4).unbind()
    product_s = min(times_s(lambda: torch.mm(left, right), repeats))
    copy_s = min(times_s(lambda: target.copy_(source), repeats))
    about = {"flops_per_s": "measured: torch.mm", "memory_bytes_per_s": "measured: Tensor.copy_, read and written"}
    return Accelerator("one core", 0, 2 * _COPY_BYTES / copy_s, {"fp32": 2 * _PRODUCT_SIDE**3 / product_s}, about)


def measured_launch_s(repeats: int) -> float:
    """Measure what the smallest kernel takes."""
    tiny = torch.ones(1)

    def many() -> None:
        for _ in range(1000):
            tiny.add(1.0)

    return min(times_s(many, repeats)) / 1000


def gpt_job(width: int) -> TorchJob:
    """Return a GPT of one block, a shard a layer; without dropout, with which CPUs have no kernel for attention."""
    model = byte_gpt(width, 1, width // 64, context=_CONTEXT, dropout=0.0, seed=0)
    return TorchJob(
        f"gpt{width}", model, next_byte_loss, text_loader(1, _BATCH_SIZE, _CONTEXT),
        partial(torch.optim.SGD, lr=1e-3), cuts=(1, 2),
    )  # fmt: skip


def measure(job: TorchJob, repeats: int) -> dict[str, dict[str, float]]:
    """Time each layer's forward, and its backward with recomputation and update, as units run them; medians."""
    value, target = next(iter(job.dataloader))
    found = {}
    for index, kind in enumerate(KINDS):
        layers, flags = [job.layers[index]], [needs_grad(value)]
        parameters = list(layers[0].parameters())
        optimizer = job.recipe(parameters).make(parameters)
        assert optimizer is not None
        if kind == KINDS[-1]:
            ahead = partial(forward, layers, value, flags, job.loss_fn, target)
            back: Callable[[], object] = partial(loss_and_backward, layers, value, flags, target, job.loss_fn)
        else:
            ahead = partial(forward, layers, value, flags)
            output = ahead()
            back = partial(backward, layers, value, flags, [torch.ones_like(output)])
            output = output.detach().requires_grad_()
        forward_s = median(times_s(ahead, repeats))
        both_s = median(times_s(partial(_step, back, optimizer), repeats))
        found[kind] = {"forward": forward_s, "backward": both_s - forward_s}
        value = output
    return found


def _step(back: Callable[[], object], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    back()
    step(optimizer)


def count(job: TorchJob) -> dict[str, dict[str, tuple[Kernel, ...]]]:
    """Return what each layer's forward, and its backward with update, run on a CPU."""
    shards = AnalyticPilot(job, as_on_gpu=False).chain([(0, 1), (1, 2), (2, 3)])
    return {
        kind: {"forward": shard.forward_kernels, "backward": (*shard.backward_kernels, *shard.update_kernels)}  # type: ignore[attr-defined]
        for kind, shard in zip(KINDS, shards, strict=True)
    }


@dataclass(frozen=True)
class Sample:
    """One layer and phase: what it runs, and the seconds it took."""

    width: int
    layer: str
    phase: str
    kernels: tuple[Kernel, ...]
    measured_s: float

    def error_fraction(self, roofline: Roofline) -> float:
        """Return how far the roofline is off, relative to what was measured."""
        return roofline.seconds(self.kernels) / self.measured_s - 1


def samples_of(widths: Sequence[int], repeats: int) -> list[Sample]:
    """Measure and count the layers of GPTs."""
    found = []
    for width in widths:
        job = gpt_job(width)
        measured = measure(job, repeats)
        for kind, phases in count(job).items():
            found += [Sample(width, kind, phase, kernels, measured[kind][phase]) for phase, kernels in phases.items()]
    return found


class BertLayer(nn.Module):
    """A layer of BERT-large as it was in 2022, with attention in pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.mix = nn.ModuleList(nn.Linear(1024, 1024) for _ in range(3)), nn.Linear(1024, 1024)
        self.wide, self.narrow = nn.Linear(1024, 4096), nn.Linear(4096, 1024)
        self.norm, self.norm2, self.dropout = nn.LayerNorm(1024), nn.LayerNorm(1024), nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, of its input's shape (batch, length, 1024)."""
        heads = (*x.shape[:2], 16, 64)
        query, key, value = (project(x).view(heads).transpose(1, 2) for project in self.qkv)
        scores = self.dropout(torch.softmax(query @ key.transpose(2, 3) / 8, dim=3))
        x = self.norm(self.dropout(self.mix((scores @ value).transpose(1, 2).reshape(x.shape))) + x)
        return self.norm2(self.dropout(self.narrow(nn.functional.gelu(self.wide(x)))) + x)


def quoted_rows() -> list[dict[str, Any]]:
    """Count a BERT layer, and hold it against published times of a GPU."""
    found = []
    for (batch, length), rates in QUOTED_BERT.items():
        with torch.device("meta"):
            data = [(torch.ones(batch, length, 1024), torch.ones(1))]
            layers = [nn.Identity(), BertLayer()]  # the second layer's input wants a gradient, as theirs
            job = TorchJob("bert", layers, lambda output, _: output.sum(), data, partial(torch.optim.SGD, lr=0.1))
        pilot = AnalyticPilot(job, "fp16")
        (shard,) = pilot.chain([(0, 2)])
        flops = 24 * batch * length * 1024**2 + 4 * batch * length**2 * 1024  # of a forward, by their formula
        kernels = {
            "forward": shard.forward_kernels,
            "forward + backward": shard.forward_kernels + shard.backward_kernels,
        }  # type: ignore[attr-defined]
        for (phase, run), rate, passes in zip(kernels.items(), rates, (1, 3), strict=True):
            quoted_s, analytic_s = passes * flops / (rate * 1e12), RTX_3090_TI.seconds(run)
            found.append(
                {
                    "batch": batch, "length": length, "phase": phase, "quoted_s": quoted_s, "analytic_s": analytic_s,
                    "error_fraction": analytic_s / quoted_s - 1, "num_kernels": len(run),
                }
            )  # fmt: skip
    return found


def calibrated(roofline: Roofline, samples: Sequence[Sample], without: int | None = None) -> Roofline:
    """Return the roofline at which blocks take what was measured; without: a width to leave out."""
    blocks = [(s.kernels, s.measured_s) for s in samples if s.layer == "block" and s.width != without]
    return replace(roofline, flops_per_s=roofline.flops_per_s * compute_fraction(roofline, blocks))


def run(repeats: int = 15, widths: Sequence[int] = WIDTHS) -> dict[str, Any]:
    """Measure and count; return the rows, the peaks and the errors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        card, launch_s = measured_peaks(repeats), measured_launch_s(repeats)
        samples = samples_of(widths, repeats)
    finally:
        torch.set_num_threads(threads)
    roofline = Roofline.of(card, "fp32", Efficiency(1.0, 1.0, launch_s))
    rows = [
        {
            "width": sample.width,
            "layer": sample.layer,
            "phase": sample.phase,
            "measured_s": sample.measured_s,
            "analytic_s": roofline.seconds(sample.kernels),
            "error_fraction": sample.error_fraction(roofline),
            "calibrated_error_fraction": sample.error_fraction(calibrated(roofline, samples, without=sample.width)),
            "flops": sum(kernel.flops for kernel in sample.kernels),
            "nbytes": sum(kernel.nbytes for kernel in sample.kernels),
            "num_kernels": len(sample.kernels),
        }
        for sample in samples
    ]
    return {
        "label": "analytic, against measured on this CPU",
        "command": "python -m experiments.analytic --output results/analytic",
        "peaks": {**vars(roofline), "source": "measured on one core of this CPU, thread time"},
        "compute_fraction_of_blocks": calibrated(roofline, samples).flops_per_s / roofline.flops_per_s,
        "median_abs_error_fraction": {kind: _median_abs(rows, kind, "error_fraction") for kind in KINDS},
        "median_abs_calibrated_error_fraction": {
            kind: _median_abs(rows, kind, "calibrated_error_fraction") for kind in KINDS
        },
        "rows": rows,
        "quoted_rows": quoted_rows(),
        "settings": {"context": _CONTEXT, "batch_size": _BATCH_SIZE, "repeats": repeats, "precision": "fp32"},
        "provenance": host_provenance(),
    }


def _median_abs(rows: list[dict[str, Any]], kind: str, name: str) -> float:
    return median(abs(row[name]) for row in rows if row["layer"] == kind)


def report(found: dict[str, Any]) -> str:
    """Write what was found as Markdown."""
    peaks = found["peaks"]
    lines = [
        "# Analytic estimates against measurements",
        "",
        f"`{found['command']}`, on {found['provenance']['cpu']}, one core, torch {found['provenance']['torch']}.",
        f"Peaks measured here: {peaks['flops_per_s'] / 1e9:.1f} GFLOP/s (product of side {_PRODUCT_SIDE}), "
        f"{peaks['bytes_per_s'] / 1e9:.1f} GB/s (copy of 256 MiB, read and written), "
        f"{peaks['launch_s'] * 1e6:.2f} us for the smallest kernel.",
        "",
        "*measured*: medians on this CPU, without recomputation; *analytic*: FLOPs and bytes through the roofline at "
        "these peaks; *calibrated*: at the compute efficiency of the blocks of the other widths.",
        "",
        "| width | layer | phase | measured ms | analytic ms | error | calibrated error |",
        "|---:|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['width']} | {r['layer']} | {r['phase']} | {1e3 * r['measured_s']:.3g} | {1e3 * r['analytic_s']:.3g} | "
        f"{100 * r['error_fraction']:+.0f} % | {100 * r['calibrated_error_fraction']:+.0f} % |"
        for r in found["rows"]
    ]
    errors, calibrated_errors = found["median_abs_error_fraction"], found["median_abs_calibrated_error_fraction"]
    lines += ["", f"The compute efficiency of all blocks is {found['compute_fraction_of_blocks']:.2f}.", ""]
    lines += ["| layer | median absolute error | calibrated |", "|---|---:|---:|"]
    lines += [f"| {k} | {100 * errors[k]:.0f} % | {100 * calibrated_errors[k]:.0f} % |" for k in KINDS]
    lines += ["", "## Against quoted times of a GPU", ""]
    lines += [
        "A BERT-large layer on an RTX 3090 Ti in fp16, from github.com/mli/transformers-benchmarks; the peaks are"
    ]
    lines += ["those measured there, and the launch follows from its smallest batch, which is left out here.", ""]
    lines += ["| batch x length | phase | quoted ms | analytic ms | error |", "|---|---|---:|---:|---:|"]
    lines += [
        f"| {r['batch']} x {r['length']} | {r['phase']} | {1e3 * r['quoted_s']:.3g} | {1e3 * r['analytic_s']:.3g} | "
        f"{100 * r['error_fraction']:+.0f} % |"
        for r in found["quoted_rows"]
    ]
    return "\n".join(lines) + "\n"


def main(
    output: Annotated[Path, typer.Option(help="Folder for summary.json and report.md.")] = Path("results/analytic"),
    repeats: Annotated[int, typer.Option(min=1)] = 15,
) -> None:
    """Measure, count, and write summary.json and report.md."""
    make_folder(output)
    found = run(repeats)
    write_text(output / "summary.json", json.dumps(found, indent=1) + "\n")
    write_text(output / "report.md", report(found))
    typer.echo(report(found))


if __name__ == "__main__":
    typer.run(main)
