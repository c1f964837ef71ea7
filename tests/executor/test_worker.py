"""A worker carries out a simulated command list on real tensors, in this very process."""

from __future__ import annotations

import os
import time
from multiprocessing import Pipe

import cloudpickle
import torch

from executor import CpuDevice, prepare
from executor.compare_state import identical
from executor.host_store import HostStore, StoreView
from executor.loader import Loader
from executor.messages import Done, LoaderSetup, Order, Setup
from executor.stage import job_setup
from executor.train import _write_back
from executor.worker import Run
from hydrasim.command import Kind
from hydrasim.mechanism import Mechanism
from hydrasim.simulator import simulate
from tests.executor.worlds import expected, random_state_kept, small_job


def test_the_simulators_commands_train_the_model():
    job = small_job(steps=2, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    answer, _ = expected(job)
    prepared = prepare([job], [CpuDevice(1 << 20)])
    commands = []
    simulate(prepared.workload, prepared.cluster, "fifo", mechanism=Mechanism(write_back="lazy"), commands=commands)
    store, part = HostStore(prepared), prepared.partitions[0]
    loader = Loader(
        LoaderSetup("A", cloudpickle.dumps((job.dataloader, None)), 0, prepared.workload.jobs[0].schedule, 3, 1,
                    part.pilot.input_bytes, part.pilot.target_bytes, store.nbytes, store.places), store,
    )  # fmt: skip
    here, there = Pipe()
    setup = Setup(
        CpuDevice(1 << 20), 1 << 20, 1 << 20, store.nbytes, store.places, (job_setup(part, prepared.workload.jobs[0]),)
    )
    run = Run(setup, StoreView(os.dup(store.fd), store.nbytes, store.places), None, there)
    losses, done = [], set()
    with random_state_kept():
        for command in commands:
            if command.kind is Kind.FETCH:
                while not done.issuperset(command.after):
                    for report in here.recv():
                        assert isinstance(report, Done), report
                        done.add(report.number)
                        losses += [] if report.result is None else [report.result]
                loader.fetch(command.unit.minibatch)
                done.add(command.number)
                run.done_elsewhere([command.number])
            else:
                foreign = tuple(number for number in command.after if commands[number].kind is Kind.FETCH)
                after = tuple(number for number in command.after if number not in foreign)
                region = store.location[command.block] if command.block is not None and command.block.kind == "w" else 0
                run.submit([Order(command, region, after=after, foreign=tuple(set(foreign) - done))])
        used = run.close()
    assert used.peak_bytes > 0
    assert all(seconds >= 0 for seconds in used.core_s.values())
    assert set(used.core_s) == {"units", "copies", "rest"}
    _write_back(part, store)
    weights = dict(job.module.named_parameters())
    assert identical(weights, {name: answer[name] for name in weights}) == []
    store.close()


def test_a_worker_reports_times_of_the_clock_that_all_processes_share(pools):
    from executor import train

    before = time.monotonic()
    spans = train([small_job()], pools[1].devices, pool=pools[1]).timeline.spans
    elapsed = time.monotonic() - before
    assert all(0 <= span.start_s <= span.end_s <= elapsed for span in spans)
