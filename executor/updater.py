"""The process that updates in host memory: a thread a job, which steps its optimizers where the state is at home.

A step is taken on a copy of the state, in a region of its own, so that the old one stays whole until it is done.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from functools import partial
from multiprocessing.connection import Connection

import torch

from executor.compute import take_step
from executor.host_store import HEADER_BYTES, StoreView
from executor.lanes import Completions, LaneThread, Reporter
from executor.layout import ShardOnDevice, parameters_of
from executor.messages import Broken, JobSetup, Order, UpdaterSetup
from executor.pickling import load_without_weights
from executor.process import ending_with_parent, receive_fd, send_or_leave
from hydrasim.dataflow import BlockKey
from hydrasim.errors import told


class Optimizers:
    """One job's optimizers, a shard each, without weights of their own."""

    def __init__(self, setup: JobSetup, store: StoreView) -> None:
        self._setup, self._store = setup, store
        (shards, _, recipes), _ = load_without_weights(setup.payload)
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
        done = Completions()
        self._lanes = {
            job.name: LaneThread(f"updates {job.name}", Optimizers(job, store).update, self._reporter.report, done)
            for job in setup.jobs
        }
        for thread in (self._reporter, *self._lanes.values()):
            thread.start()

    def submit(self, order: Order) -> None:
        self._lanes[order.command.unit.job].submit(order, [])

    def close(self) -> None:
        """End all threads."""
        for thread in (*self._lanes.values(), self._reporter):
            thread.stop()
            thread.join()


def main() -> None:
    """Serve runs until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own = socket.socket(fileno=int(sys.argv[1]))
    connection = Connection(os.dup(own.fileno()))
    torch.set_num_threads(1)  # as a device has, so that results are the same to the bit
    run: Run | None = None
    store_fd = -1
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # a thread may be in the middle of something; nobody waits for it
        if isinstance(message, UpdaterSetup):
            store_fd = receive_fd(own)
            try:
                run = Run(message, StoreView(store_fd, message.store_bytes, message.places), connection)
                connection.send("ready")
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                connection.send(Broken(-1, "setup", told(error)))
        elif message == "close":
            assert run is not None
            run.close()
            run = None
            os.close(store_fd)
            connection.send("closed")
        elif run is not None:
            run.submit(message)


if __name__ == "__main__":
    with ending_with_parent():
        main()
