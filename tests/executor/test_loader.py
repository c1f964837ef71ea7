"""A loader hands out the mini-batches and the random stream of the plain loop."""

from __future__ import annotations

import cloudpickle
import pytest
import torch
from torch.nn import functional

from executor import CpuDevice, prepare, randomness
from executor.host_store import HEADER_BYTES, HostStore
from executor.loader import Loader
from executor.messages import LoaderSetup
from hydrasim.dataflow import BlockKey
from tests.executor.worlds import DATA, pairs, random_state_kept, small_job, transformer


def loader_of(dataloader, seed=0, evaluate_on=None, **fields):
    prepared = prepare(
        [small_job(dataloader=dataloader, cuts=(), evaluate_on=evaluate_on, **fields)], [CpuDevice(1 << 20)]
    )
    store, pilot = HostStore(prepared), prepared.partitions[0].pilot
    setup = LoaderSetup(
        "A",
        cloudpickle.dumps((dataloader, evaluate_on)),
        seed,
        prepared.workload.jobs[0].schedule,
        2,
        0,
        pilot.input_bytes,
        pilot.target_bytes,
        store.nbytes,
        store.places,
    )
    return Loader(setup, store), store


def read(store, kind, minibatch):
    region = store.boundary(BlockKey(kind, "A", 0, minibatch))
    spec = store.read_spec(region)
    return spec.read(store.tensor(region + HEADER_BYTES, spec.nbytes))


def fetch_all(loader, store, count):
    """Fetch as a run does: between two fetches a forward draws one number."""
    seen = []
    for minibatch in range(count):
        loader.fetch(minibatch)
        seen.append((read(store, "x", minibatch).tolist(), read(store, "y", minibatch).tolist()))
        randomness.restore(store.read_random("A", 0, minibatch))
        torch.rand(1)
        store.write_random("A", 1, minibatch, randomness.save())
    return seen


@pytest.mark.parametrize("name", DATA)
def test_two_epochs_yield_what_a_plain_loop_sees(name):
    with random_state_kept():
        randomness.seed_all(7)
        wanted = []
        for _ in range(2):
            for inputs, targets in DATA[name](6):
                wanted.append((inputs.tolist(), targets.tolist()))
                torch.rand(1)
        if name == "own generator":  # which goes on from epoch to epoch
            data = DATA[name](6)
            wanted = [(x.tolist(), y.tolist()) for _ in range(2) for x, y in data]
        loader, store = loader_of(DATA[name](6), 7, model=transformer(16), loss_fn=functional.cross_entropy, epochs=2)
        assert fetch_all(loader, store, 6) == wanted
    store.close()


def test_the_next_minibatch_leaves_the_current_one_alone():
    data = pairs(2)
    loader, store = loader_of(data)
    with random_state_kept():
        loader.fetch(0)
        store.write_random("A", 1, 0, randomness.save())
        loader.fetch(1)
    assert torch.equal(read(store, "x", 0), data[0][0])
    assert torch.equal(read(store, "x", 1), data[1][0])
    store.close()


def test_a_target_may_be_nothing():
    loader, store = loader_of([(torch.ones(2, 4), None)], loss_fn=lambda output, _: output.sum())
    with random_state_kept():
        loader.fetch(0)
    assert read(store, "y", 0) is None
    store.close()
