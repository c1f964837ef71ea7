"""Loader processes: one a job, forked from a host that has imported torch once; they save and read checkpoints, too.

A loader draws from the same random stream as its model, so it takes that stream over after the last
forward of a mini-batch and hands it on with the next one.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.utils.data import DataLoader

from executor import randomness
from executor.checkpoint import Checkpoint, path_of
from executor.host_store import HEADER_BYTES, StoreView
from executor.messages import Broken, Done, Fetch, LoaderSetup, Restore, Save
from executor.process import die_with_parent, ending_with_parent, receive_fd
from executor.saving import restore, save
from executor.tensors import spec_of, write_tree
from hydrasim.dataflow import BlockKey, aligned
from hydrasim.errors import told

_END = object()


class Loader:
    """Fetches mini-batches of one job into the host store, in the reference loop's order."""

    def __init__(self, setup: LoaderSetup, store: StoreView) -> None:
        self._setup, self._store = setup, store
        self._dataloader, self._evaluate_on = pickle.loads(setup.payload)
        self._batches: Iterator[Any] = iter(())
        self._name, self._evaluates, self._length, self._num_taken = "", False, 0, 0  # of what it iterates over
        self._is_new = True

    def fetch(self, minibatch: int) -> None:
        """Put a mini-batch and the random state after it into the store.

        Raises:
            ValueError: an epoch's length is not what the loader says, or a mini-batch is larger than the first.
        """
        setup = self._setup
        if self._is_new and minibatch:
            self._catch_up(minibatch)
        self._is_new = False
        if minibatch == 0:
            randomness.seed_all(setup.seed)
        else:
            randomness.restore(self._store.read_random(setup.job, setup.num_slots - 1, minibatch - 1))
        inputs, targets = self._next(minibatch)
        self._put(BlockKey("x", setup.job, 0, minibatch), inputs, setup.input_bytes)
        self._put(BlockKey("y", setup.job, setup.last_shard, minibatch), targets, setup.target_bytes)
        self._store.write_random(setup.job, 0, minibatch, randomness.save())

    def _catch_up(self, minibatch: int) -> None:
        """Go on where a loader that ended was: begin its epoch as it did, and pass over what that has given.

        What is drawn for a mini-batch that is passed over differs, and goes with it; orders are drawn at the beginning,
        and at the end of an epoch, which comes when the next one begins.
        """
        schedule, store, job = self._setup.schedule, self._store, self._setup.job
        for evaluates in (False, True):
            if orders := store.read_loader(job, "orders", evaluates):
                _set_orders(self._source(evaluates)[0], pickle.loads(orders))
        last = minibatch if schedule.place(minibatch) else minibatch - 1  # of the epoch to go on with, or to end
        evaluates = schedule.is_evaluation(last)
        dataloader, name = self._source(evaluates)
        record = store.read_loader(job, "epoch", evaluates)
        begun_at, state, begun = pickle.loads(record) if record else (minibatch, b"", [])
        has_ended = begun_at == minibatch  # and the next one has begun
        if not has_ended and (last == minibatch or _draws_at_its_end(dataloader)):
            randomness.restore(state)
            _set_orders(dataloader, begun)
            self._begin(dataloader, name, evaluates)
            self._num_taken = sum(1 for _ in islice(self._batches, schedule.place(last) + (last < minibatch)))

    def _begin(self, dataloader: Any, name: str, evaluates: bool) -> None:
        self._batches, self._name, self._evaluates = iter(dataloader), f"the {name}", evaluates
        self._length, self._num_taken = len(dataloader), 0

    def _end(self) -> None:
        """See that an epoch gave no more than it says, if all of it was taken."""
        if next(self._batches, _END) is not _END:
            raise ValueError(f"{self._name} yields more than the {self._length} mini-batches of its length.")
        self._keep_orders(self._evaluates)

    def _keep_orders(self, evaluates: bool) -> None:
        if orders := _orders(self._source(evaluates)[0]):
            self._store.write_loader(self._setup.job, "orders", evaluates, pickle.dumps(orders))

    def _source(self, evaluates: bool) -> tuple[Any, str]:
        return (self._evaluate_on, "evaluate_on") if evaluates else (self._dataloader, "dataloader")

    def _next(self, minibatch: int) -> Any:
        schedule = self._setup.schedule
        evaluates, done = schedule.is_evaluation(minibatch), schedule.place(minibatch)
        if not done:
            is_at_end = evaluates and schedule.trained_before(minibatch) == schedule.max_minibatches
            if self._num_taken == self._length and not is_at_end:
                self._end()
            dataloader, name = self._source(evaluates)
            begun = pickle.dumps((minibatch, randomness.save(), _orders(dataloader)))
            self._store.write_loader(self._setup.job, "epoch", evaluates, begun)
            self._begin(dataloader, name, evaluates)
        batch = next(self._batches, _END)
        if batch is _END:
            raise ValueError(f"{self._name} ended early, after {done} of {self._length} mini-batches.")
        self._num_taken += 1
        self._keep_orders(evaluates)
        return batch

    def _put(self, key: BlockKey, tree: Any, room: int) -> None:
        spec = spec_of(tree)
        if spec.nbytes > aligned(room):
            raise ValueError(
                f"a mini-batch has {spec.nbytes} bytes, the first had {room}; give the largest as `largest_batch`."
            )
        region = self._store.boundary(key)
        self._store.write_spec(region, spec)
        write_tree(tree, spec, self._store.tensor(region + HEADER_BYTES, spec.nbytes))


def _generators(dataloader: Any) -> list[torch.Generator]:
    """Return the generators that a dataloader of torch, or its sampler, draws an order from."""
    sampler = getattr(dataloader, "batch_sampler", None)
    holders = (dataloader, getattr(dataloader, "sampler", None), sampler, getattr(sampler, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())


def _orders(dataloader: Any) -> list[torch.Tensor]:
    """Return the states of what a dataloader draws an order from, if it has generators of its own."""
    return [generator.get_state() for generator in _generators(dataloader)]


def _set_orders(dataloader: Any, states: list[torch.Tensor]) -> None:
    for generator, state in zip(_generators(dataloader), states, strict=True):
        generator.set_state(state)


def _draws_at_its_end(dataloader: Any) -> bool:
    """Tell whether it matters that an epoch of it is gone through to its end: samplers draw then, too."""
    return bool(_generators(dataloader)) or not isinstance(dataloader, (list, tuple, DataLoader))


def serve(connection: Connection, setup: LoaderSetup, store: StoreView) -> None:
    """Say that the loader is ready; then do what is asked until the parent hangs up."""
    number, what = -1, "setup"
    try:
        loader = Loader(setup, store)
        connection.send("ready")
        while True:
            request: Fetch | Save | Restore = connection.recv()
            number, what = request.number, type(request).__name__.lower()
            started = time.monotonic()
            if isinstance(request, Fetch):
                loader.fetch(request.minibatch)
            elif isinstance(request, Save):
                save(setup, request, store)
            else:
                assert setup.saving is not None
                found = Checkpoint.open(path_of(setup.saving.folder, request.minibatch))
                restore(found, setup, request.regions, store)
            connection.send([Done(number, started, time.monotonic())])
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the run is over
    except BaseException as error:
        with contextlib.suppress(OSError):
            connection.send([Broken(number, what, told(error), traceback.format_exc())])


def main() -> None:
    """Fork a loader for every setup that arrives, each with a socket of its own."""
    own = socket.socket(fileno=int(sys.argv[1]))
    connection = Connection(os.dup(own.fileno()))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    torch.set_num_threads(1)
    while True:
        try:
            setup: LoaderSetup = connection.recv()
        except EOFError:
            return
        store_fd, socket_fd = receive_fd(own), receive_fd(own)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            own.close()
            connection.close()
            die_with_parent()
            os.register_at_fork(after_in_child=die_with_parent)  # workers of a DataLoader, with this loader
            sys.unraisablehook = lambda _: None  # a DataLoader's destructor complains when its processes were killed
            serve(Connection(socket_fd), setup, StoreView(store_fd, setup.store_bytes, setup.places))
            os._exit(0)
        os.close(store_fd)
        os.close(socket_fd)


if __name__ == "__main__":
    with ending_with_parent():
        main()
