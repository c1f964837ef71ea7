"""The reference in a process of its own: same bits as in this one, and a failure is an error."""

from __future__ import annotations

import pytest
import torch

from executor.errors import ExecutionError
from executor.reference import train_plain
from experiments.reference_run import digests, reference_results
from experiments.workloads import TINY, gpt_jobs


def test_a_process_gives_the_bits_of_the_loop():
    found = reference_results("tiny", ["B", "C"], num_processes=2)
    assert set(found) == {"B", "C"}
    job = gpt_jobs(TINY)[1]
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    losses, optimizer = train_plain(
        job.module, job.loss_fn, job.dataloader, job.optimizer, epochs=job.epochs, seed=job.seed
    )
    torch.set_num_threads(num_threads)
    weights = dict(job.module.named_parameters())
    assert found["B"]["losses"] == losses
    assert found["B"]["digests"] == digests(weights, {n: optimizer.state[p] for n, p in weights.items()})


def test_one_ulp_changes_the_digest():
    weight = torch.ones(4)
    nudged = weight.clone()
    nudged[2] = torch.nextafter(nudged[2], torch.tensor(2.0))
    assert digests({"w": weight}, {}) != digests({"w": nudged}, {})
    assert digests({"w": torch.zeros(1)}, {}) != digests({"w": -torch.zeros(1)}, {})


def test_a_process_that_fails_is_an_error():
    with pytest.raises(ExecutionError, match="exited with code 1"):
        reference_results("no such workload", ["A"], num_processes=1)
