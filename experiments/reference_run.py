"""Trains jobs with the plain reference loop in a process of its own, and prints what came out as JSON.

python -m experiments.reference_run --device=cpu demo medium small
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from executor import TorchJob
from executor.compare_state import raw_bytes
from executor.devices.cuda import be_deterministic
from executor.errors import ExecutionError
from executor.process import CUBLAS_WORKSPACE
from executor.reference import train_plain
from experiments.workloads import WORKLOADS, gpt_jobs


def digests(weights: Mapping[str, torch.Tensor], state: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, str]:
    """Return a hash of the raw bytes of every weight and optimizer tensor, by name."""
    named = [(name, tensor) for name, tensor in weights.items()]
    named += [(f"{name}.{key}", tensor) for name, entry in state.items() for key, tensor in entry.items()]
    return {
        name: hashlib.sha256(raw_bytes(tensor).numpy()).hexdigest()
        for name, tensor in sorted(named, key=lambda pair: pair[0])
    }


def reference_results(workload: str, jobs: Iterable[str], num_processes: int, device: str = "cpu") -> dict[str, Any]:
    """Run the reference loop over the named jobs in separate processes; return losses and digests by job.

    workload: a name of `WORKLOADS`, or `module:function` for what returns the jobs.

    Raises:
        ExecutionError: a process failed.
    """
    names = list(jobs)
    command = [sys.executable, "-m", "experiments.reference_run", f"--device={device}", workload]
    environment = {**CUBLAS_WORKSPACE, **os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, *names[index::num_processes]], stdout=subprocess.PIPE, env=environment, text=True)
        for index in range(min(num_processes, len(names)))
    ]
    results: dict[str, Any] = {}
    try:
        for process in processes:
            output, _ = process.communicate()
            if process.returncode:
                raise ExecutionError(f"the reference loop's process exited with code {process.returncode}.")
            results |= json.loads(output)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return results


def main() -> None:
    """Train the named jobs of a workload and print their losses and digests."""
    torch.set_num_threads(1)
    device, workload, *names = sys.argv[1:]
    device = device.removeprefix("--device=")
    if device.startswith("cuda"):
        be_deterministic()
    results = {}
    for job in make_jobs(workload):
        if job.name in names:
            losses, optimizer = train_plain(
                job.module, job.loss_fn, job.dataloader, job.optimizer, epochs=job.epochs, max_steps=job.max_steps,
                seed=job.seed, device=device,
            )  # fmt: skip
            weights = dict(job.module.named_parameters())
            state = {
                name: {key: value for key, value in optimizer.state[parameter].items() if torch.is_tensor(value)}
                for name, parameter in weights.items()
            }
            results[job.name] = {"losses": losses, "digests": digests(weights, state)}
    json.dump(results, sys.stdout)


def make_jobs(workload: str) -> list[TorchJob]:
    """Build the jobs of a name of `WORKLOADS`, or of `module:function`; they are the same bits in every process."""
    module, _, function = workload.rpartition(":")
    if not module:
        return gpt_jobs(WORKLOADS[workload])
    made: list[TorchJob] = getattr(importlib.import_module(module), function)()
    return made


if __name__ == "__main__":
    main()
