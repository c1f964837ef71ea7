"""Regions of one shared file: state by version, boundaries by mini-batch."""

from __future__ import annotations

import mmap
import os
import resource

import pytest
import torch

from executor import CpuDevice, prepare
from executor.errors import HostMemoryError
from executor.host_store import HEADER_BYTES, HostStore, StoreView
from executor.tensors import spec_of, write_tree
from hydrasim.dataflow import BlockKey
from tests.executor.worlds import perceptron, small_job

W0 = BlockKey("w", "A", 0, -1)


@pytest.fixture
def store():
    made = HostStore(prepare([small_job()], [CpuDevice(1 << 20)]))
    yield made
    made.close()


def open_fds():
    return len(os.listdir("/proc/self/fd"))


def test_it_opens_with_the_models_weights():
    job = small_job()
    store = HostStore(prepare([job], [CpuDevice(1 << 20)]))
    weight = job.module[0][0].weight
    assert torch.equal(store.block(W0)[: weight.numel() * 4].view(torch.float32), weight.detach().flatten())
    store.close()


def test_state_that_the_optimizer_already_has_is_kept():
    model = perceptron(4, 8, 2)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1, initial_accumulator_value=0.25)
    prepared = prepare([small_job(model=model, optimizer=optimizer)], [CpuDevice(1 << 20)])
    store, layout = HostStore(prepared), prepared.partitions[0].shards[0].layout
    assert layout.flags(store.block(W0)).tolist() == [1, 1]
    sums = next(entry.slot.view(store.block(W0)) for entry in layout.state if entry.key == "sum")
    assert sums.unique().tolist() == [0.25]
    store.close()


def test_a_write_counts_only_once_committed(store):
    before, old = store.block(W0).clone(), store.location[W0]
    region = store.spare(W0)
    store.tensor(region, store.state_bytes(W0)).fill_(7)
    assert torch.equal(store.block(W0), before)
    store.commit(W0, region)
    assert store.block(W0).unique().tolist() == [7]
    assert store.spare(W0) == old


def test_several_stores_of_one_shard_can_be_in_flight(store):
    # The file had room for a single spare a shard, yet two units of one shard may be issued at once and a
    # third store still be on its way.
    regions = [store.spare(W0) for _ in range(3)]
    nbytes = store.state_bytes(W0)
    assert len({*regions, store.location[W0]}) == 4
    assert [len(store.tensor(region, nbytes)) for region in regions] == [nbytes] * 3
    for region in regions:
        assert region + nbytes <= store.nbytes


def test_another_view_of_the_same_file_sees_what_was_written(store):
    other = StoreView(os.dup(store.fd), store.nbytes, store.places)
    tree = (torch.arange(3), None)
    key = BlockKey("x", "A", 1, 0)
    region, spec = store.boundary(key), spec_of(tree)
    store.write_spec(region, spec)
    write_tree(tree, spec, store.tensor(region + HEADER_BYTES, spec.nbytes))
    back = other.read_spec(other.boundary(key)).read(other.tensor(region + HEADER_BYTES, spec.nbytes))
    assert torch.equal(back[0], tree[0])
    os.close(other.fd)


def test_loaded_data_alternates_between_two_regions(store):
    x = [store.boundary(BlockKey("x", "A", 0, minibatch)) for minibatch in range(4)]
    assert x[0] == x[2] != x[1] == x[3]
    inner = {store.boundary(BlockKey("x", "A", 1, minibatch)) for minibatch in range(4)}
    assert len(inner) == 1


def test_random_states_are_kept_by_slot_and_minibatch(store):
    store.write_random("A", 0, 0, b"first")
    store.write_random("A", 0, 1, b"second")
    store.write_random("A", 2, 0, b"last")
    assert [store.read_random("A", *place) for place in ((0, 0), (0, 1), (2, 0))] == [b"first", b"second", b"last"]


def test_a_description_that_does_not_fit_is_refused(store):
    with pytest.raises(ValueError, match="do not fit"):
        store.write_spec(store.boundary(BlockKey("x", "A", 1, 0)), spec_of(["x" * HEADER_BYTES]))


def test_a_full_host_is_an_error_up_front_and_leaks_nothing():
    prepared = prepare([small_job()], [CpuDevice(1 << 20)])
    object.__setattr__(prepared.workload.jobs[0].shards[0], "parameter_bytes", 1 << 44)
    before = open_fds()
    with pytest.raises(HostMemoryError, match=r"need 35,184,[\d,]+ bytes of host memory .*; [\d,]+ are available"):
        HostStore(prepared)
    assert open_fds() == before


def test_closing_gives_descriptors_back():
    prepared = prepare([small_job()], [CpuDevice(1 << 20)])
    before = open_fds()
    store = HostStore(prepared)
    store.close()
    del store
    assert open_fds() == before


@pytest.mark.parametrize("limit", [0, 4096])
def test_memory_that_the_system_does_not_give_is_one_clear_error(limit):
    # `ulimit -f` counts for memory files too, and once ended in a bare OSError.
    prepared, before = prepare([small_job()], [CpuDevice(1 << 20)]), open_fds()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(HostMemoryError, match=r"the host does not give [\d,]+ bytes .*: File too large"):
            HostStore(prepared)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert open_fds() == before


def test_only_what_is_in_use_has_memory_behind_it(store):
    # What a GPU registers gets memory; the addresses kept for spares must not.
    before = store.allocated_bytes
    assert 0 <= before - store.reserved_bytes < mmap.PAGESIZE
    store.spare(BlockKey("w", "A", 0, -1))
    assert 0 <= store.allocated_bytes - store.reserved_bytes < mmap.PAGESIZE
