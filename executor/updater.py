"""The process that updates in host memory: a thread a job, which steps its optimizers where the state is at home.

A step is taken on a copy of the state, in a region of its own, so that the old one stays whole until it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

import torch

from executor.compute import take_step
from executor.host_store import HEADER_BYTES, StoreView
from executor.lanes import Completions, LaneThread, Reporter
from executor.layout import ShardOnDevice, parameters_of
from executor.messages import Addition, JobSetup, Order, UpdaterSetup
from executor.pickling import load_without_weights
from executor.process import ending_with_parent, send_or_leave, serve
from hydrasim.dataflow import BlockKey


class Optimizers:
    """One job's optimizers, a shard each, without weights of their own."""

    def __init__(self, setup: JobSetup, store: StoreView) -> None:
        self._setup, self._store = setup, store
        (shards, _, _, recipes), _ = load_without_weights(setup.payload)
        self._shards = [
            ShardOnDevice(layers, recipe.make(parameters_of(layers)), layout)
            for layers, recipe, layout in zip(shards, recipes, setup.layouts, strict=True)
        ]

    def update(self, order: Order) -> None:
        """Step on the gradients that the backward has stored, from the state's region into the next one's."""
        unit, nbytes = order.command.unit, order.command.nbytes
        shard, store = self._shards[unit.shard], self._store
        state = store.tensor(order.region, nbytes)
        state.copy_(store.tensor(order.source, nbytes))
        shard.attach_parameters(state)
        shard.attach_state(state)
        spec = self._setup.gradients[unit.shard]
        start = store.boundary(BlockKey("d", unit.job, unit.shard, unit.minibatch)) + HEADER_BYTES
        shard.attach_gradients(spec.read(store.tensor(start, spec.nbytes)))
        take_step(shard, self._setup, unit.minibatch, store, state)
        shard.clear_gradients()


class Run:
    """The updates of one run."""

    def __init__(self, setup: UpdaterSetup, store: StoreView, connection: Connection) -> None:
        self._reporter = Reporter(partial(send_or_leave, connection))
        self._store, self._done = store, Completions()
        self._lanes: dict[str, LaneThread] = {}
        self._reporter.start()
        for job in setup.jobs:
            self._add(job)

    def handle(self, message: Order | Addition) -> None:
        """Queue an order, or know of one more job."""
        if isinstance(message, Addition):
            self._store.places.update(message.places)
            self._add(message.job)
        else:
            self._lanes[message.command.unit.job].submit(message, [])

    def _add(self, job: JobSetup) -> None:
        update = Optimizers(job, self._store).update
        self._lanes[job.name] = LaneThread(f"updates {job.name}", update, self._reporter.report, self._done)
        self._lanes[job.name].start()

    def close(self) -> None:
        """End all threads."""
        for thread in (*self._lanes.values(), self._reporter):
            thread.stop()
            thread.join()


def begin(setup: UpdaterSetup, connection: Connection, received: Callable[[], int]) -> Run:
    """Map the host store, and make a run of a setup."""
    return Run(setup, StoreView(received(), setup.store_bytes, setup.places), connection)


def main() -> None:
    """Serve runs until the parent hangs up."""
    torch.set_num_threads(1)  # as a device has, so that results are the same to the bit
    serve(begin)


if __name__ == "__main__":
    with ending_with_parent():
        main()
