"""Copies between host store and arena move the bytes that a command names, and no others."""

from __future__ import annotations

import pytest
import torch

from executor import CpuDevice, prepare
from executor.host_store import HEADER_BYTES, HostStore
from executor.messages import Order
from executor.tensors import spec_of, write_tree
from executor.transfer import Transfers, spec_key
from hydrasim.command import Command, Kind, Lane
from hydrasim.dataflow import BlockKey
from hydrasim.workload import ShardUnit
from tests.executor.worlds import small_job

UNIT = ShardUnit.parse("A/F0#0")
STATE, ENTRY = BlockKey("w", "A", 0, -1), BlockKey("x", "A", 1, 0)


@pytest.fixture
def world():
    store = HostStore(prepare([small_job()], [CpuDevice(1 << 20)]))
    memory = CpuDevice(1 << 20).open(1024, 1 << 20, None)
    specs = {}
    yield store, memory.arena, specs, Transfers(store, memory, specs, None)
    store.close()


def order(kind, block, region=0, start=0, nbytes=64, offset=256):
    lane = Lane.H2D if kind is Kind.LOAD else Lane.D2H
    return Order(Command(0, kind, 0, lane, UNIT, block=block, start=start, nbytes=nbytes, offset=offset), region)


def test_a_load_fills_its_part_of_the_block(world):
    store, arena, _, transfers = world
    transfers.load(order(Kind.LOAD, STATE, store.location[STATE], start=64, nbytes=128))
    assert torch.equal(arena[320:448], store.block(STATE)[64:192])
    assert arena[:320].sum() + arena[448:].sum() == 0


def test_a_store_writes_the_region_that_its_order_names(world):
    store, arena, _, transfers = world
    arena[256:448].fill_(3)
    region = store.spare(STATE)
    transfers.store(order(Kind.STORE, STATE, region, nbytes=192))
    assert store.tensor(region, 192).unique().tolist() == [3]
    assert store.block(STATE).unique().tolist() != [3]


def test_a_boundary_travels_with_its_shape(world):
    store, arena, specs, transfers = world
    tree = (torch.arange(6.0).view(2, 3).t(), None)
    specs[spec_key(ENTRY)] = spec = spec_of(tree)
    write_tree(tree, spec, arena[256 : 256 + spec.nbytes])
    transfers.store(order(Kind.STORE, ENTRY, nbytes=spec.nbytes))
    specs.clear()
    transfers.load(order(Kind.LOAD, ENTRY, nbytes=spec.nbytes, offset=512))
    back = specs[spec_key(ENTRY)].read(arena[512 : 512 + spec.nbytes])
    assert torch.equal(back[0], tree[0])
    assert back[0].stride() == tree[0].stride()
    assert back[1] is None
    assert store.read_spec(store.boundary(ENTRY)).nbytes == spec.nbytes <= 4096 == HEADER_BYTES
