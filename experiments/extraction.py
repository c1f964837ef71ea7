"""Which public model classes train unmodified: taken apart, proven on a batch, trained in shards, compared.

    python -m experiments.extraction --output results/extraction

Every class of `extraction_models` is extracted and trained for three mini-batches on an emulated device with
hardly more memory than the least it can be cut for, and by the reference loop; bits are compared.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from torch import nn

from executor import CpuDevice, TorchJob, prepare, train
from executor.compare_state import identical
from executor.extract import called_with, layers_of
from executor.pilot import JobPilot
from executor.reference import train_plain
from experiments.bisection import smallest_memory
from experiments.extraction_models import Case, cases
from hydrasim.disk import write_text
from hydrasim.errors import HydraError

HEADROOM_FRACTION = 0.05  # above the least memory that the job can be cut for
TRAINING_LINES = 2  # the TorchJob and the call of train
COMMAND = "python -m experiments.extraction"


@dataclass
class Row:
    """What became of a class. lines: a user's, without imports."""

    name: str
    model: str
    lines: int
    num_parameters: int = 0
    num_layers: int = 0
    proven: bool = False
    num_shards: int = 0
    identical: bool = False
    error: str = ""

    @property
    def result(self) -> str:
        """Say it in a table's cell."""
        return f"byte-identical, {self.num_shards} shards" if self.identical else self.error


def try_case(name: str, make: Callable[[], Case]) -> Row:
    """Extract a class and train it, on one thread as workers do; what goes wrong is in the row."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _try(name, make)
    finally:
        torch.set_num_threads(num_threads)


def _try(name: str, make: Callable[[], Case]) -> Row:
    torch.manual_seed(0)
    case = make()
    body = inspect.getsource(make).splitlines()[1:]
    row = Row(name, type(case.model).__name__, len(body) + TRAINING_LINES)
    row.num_parameters = sum(parameter.numel() for parameter in case.model.parameters())
    model = called_with(case.model.train(), case.batches[0][0])
    try:
        layers = layers_of(model, case.batches[0][0], case.loss_fn, case.batches[0][1])
        row.num_layers, row.proven = len(layers), True
    except HydraError as reason:
        row.error = str(reason)
        return row
    try:
        _train(row, model, layers, case)
    except HydraError as reason:
        row.error = f"{type(reason).__name__}: {reason}"
    return row


def _train(row: Row, model: nn.Module, layers: list[nn.Module], case: Case) -> None:
    """Train in shards and by the reference loop; the weights come back into the user's module."""
    plain = copy.deepcopy(model)
    job = TorchJob(row.name, layers, case.loss_fn, case.batches, _optimizer)
    pilot = JobPilot(job)
    least = smallest_memory(lambda nbytes: prepare([job], [CpuDevice(nbytes)], pilots=[pilot]))
    device = CpuDevice(int(least * (1 + HEADROOM_FRACTION)))
    prepared = prepare([job], [device], pilots=[pilot])
    row.num_shards = len(prepared.partitions[0].shards)
    result = train(prepared, strict=True)
    losses, _ = train_plain(plain, case.loss_fn, case.batches, _optimizer)
    found, wanted = _state(model, result.jobs[row.name].losses), _state(plain, losses)
    different = identical(found, wanted)
    row.identical = not different and row.num_shards > 1
    row.error = f"differs in {', '.join(different[:3])}" if different else row.error


def _optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


def _state(model: nn.Module, losses: Sequence[float]) -> dict[str, torch.Tensor]:
    return {**model.state_dict(), "losses": torch.tensor(losses, dtype=torch.float64)}


def write_report(rows: Sequence[Row], folder: Path, command: str = COMMAND) -> dict[str, Any]:
    """Write summary.json and report.md; return the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "label": "emulated",
        "num_classes": len(rows),
        "num_proven": sum(row.proven for row in rows),
        "num_trained_identical": sum(row.identical for row in rows),
        "most_lines": max(row.lines for row in rows),
        "rows": [asdict(row) for row in rows],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "num_cores": len(os.sched_getaffinity(0)),
        "command": command,
    }
    write_text(folder / "summary.json", json.dumps(found, indent=1) + "\n")
    write_text(folder / "report.md", _text(found, rows))
    return found


def _text(found: dict[str, Any], rows: Sequence[Row]) -> str:
    lines = [
        f"| {row.model} | {row.lines} | {row.num_parameters:,} | {row.num_layers or '-'} | "
        f"{'yes' if row.proven else 'no'} | {row.result} |"
        for row in rows
    ]
    return "\n".join(
        [
            "# Extraction: which public model classes train unmodified",
            "",
            f"Emulated CPU device, torch {found['torch']}, transformers {found['transformers']}, "
            f"{found['num_cores']} cores. `{found['command']}`",
            "",
            "Every class in a tiny random configuration, in train mode with its dropout. Proven: on the first batch",
            "outputs, gradients, buffers and random state of the chain are byte for byte the model's, as one shard and",
            "with every layer a shard of its own. Trained: three mini-batches with AdamW on one device with 5 % more",
            "memory than the least it can be cut for, weights, buffers and losses against the reference loop. The last",
            "text batch has no padding, for which transformers takes other kernels. Lines: a user's, without",
            "imports and data; no cuts are given.",
            "",
            f"**{found['num_proven']} of {found['num_classes']} proven, {found['num_trained_identical']} trained to "
            "the same bits.**",
            "",
            "| class | lines | parameters | layers | proven | trained |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


def main(
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("results/extraction"),
    only: Annotated[str | None, typer.Option(help="Try the case of this name alone, and write nothing.")] = None,
) -> None:
    """Try every class, and write a report."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if only is not None:
        typer.echo(json.dumps(asdict(try_case(only, dict(cases())[only])), indent=1))
        return
    rows = []
    for name, make in cases():
        rows.append(try_case(name, make))
        typer.echo(f"{name}: {rows[-1].num_layers} layers, {rows[-1].result}")
    found = write_report(rows, output)
    typer.echo(f"{found['num_proven']} of {found['num_classes']} proven; {output / 'report.md'}")
    if any(row.error for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
