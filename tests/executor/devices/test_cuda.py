"""The CUDA lanes on a stand-in whose streams really are asynchronous; marked `gpu`, the same on a GPU."""

from __future__ import annotations

import contextlib
import copy
import mmap
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from executor import CudaDevice, DevicePool, train
from executor.compare_state import identical
from executor.devices.cuda import WORKSPACE_BYTES, be_deterministic
from executor.errors import DeviceError, ExecutionError
from executor.reference import train_plain
from tests.executor.devices import fake_cuda
from tests.executor.devices.fake_cuda import FakeCuda, FakeCudaDevice
from tests.executor.in_process import ThreadPool
from tests.executor.worlds import DATA, differences, expected, pairs, perceptron, small_job, transformer

ROOT = Path(__file__).resolve().parents[3]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
PAGE = mmap.PAGESIZE


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Give cuBLAS its setting as a worker has it, and put torch's back afterwards."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = False, True


@pytest.fixture
def runtime(monkeypatch):
    """A stand-in that every FakeCudaDevice of this process finds."""
    made = FakeCuda()
    monkeypatch.setitem(fake_cuda._runtimes, 0, made)
    return made


@pytest.fixture
def memory(runtime):
    opened = FakeCudaDevice(memory_bytes=1 << 20).open(1 << 16, 1 << 10, None)
    yield opened
    if hasattr(opened, "arena"):
        opened.close()


def ramp(nbytes=1 << 14):
    return torch.arange(nbytes).to(torch.uint8)


# What a device is, and what is refused


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_error_says_so_before_anything_runs():
    with pytest.raises(DeviceError, match="no CUDA device is available here; use --device cpu"):
        train([small_job()], [CudaDevice()])


def test_a_gpu_is_plain_data():
    assert CudaDevice(1, 1 << 30) == CudaDevice(index=1, memory_bytes=1 << 30)
    assert CudaDevice(1).place == torch.device("cuda:1")
    assert CudaDevice().runtime is torch.cuda


@pytest.mark.parametrize("index", [2, -1])
def test_a_gpu_that_is_not_there_is_refused(index, runtime):
    with pytest.raises(DeviceError, match=f"there is no CUDA device {index}; this machine has 2"):
        FakeCudaDevice(index).describe()


def test_impossible_sizes_are_refused(runtime):
    with pytest.raises(DeviceError, match="memory_bytes is 0; it must be at least 1"):
        CudaDevice(0, 0)
    with pytest.raises(
        DeviceError, match=re.escape("memory_bytes is 1,073,741,824; GPU 0 has 1,073,741,824, of which")
    ):
        FakeCudaDevice(0, 1 << 30).describe()


def test_memory_that_another_process_holds_is_refused(runtime):
    runtime.free_bytes = 1 << 15
    with pytest.raises(DeviceError, match=re.escape("the run needs 66,560 bytes of GPU 0; 32,768 are free")):
        FakeCudaDevice(memory_bytes=1 << 20).open(1 << 16, 1 << 10, None)


def test_memory_is_nearly_all_unless_stated(runtime):
    described = FakeCudaDevice().describe()
    assert described.memory_bytes == int(0.9 * (1 << 30)) - WORKSPACE_BYTES
    assert FakeCudaDevice(0, 1 << 20).describe().memory_bytes == 1 << 20
    assert described.kind == "cuda Fake"
    assert FakeCudaDevice(pinned=False).describe().kind == "cuda Fake, pageable"  # profiled apart


def test_the_allocator_is_stopped_at_the_stated_memory_and_a_workspace(runtime, memory):
    fraction = ((1 << 20) + WORKSPACE_BYTES) / (1 << 30)
    assert ("set_per_process_memory_fraction", fraction, 0) in runtime.calls
    assert FakeCudaDevice().limit_fraction() < 1.0


def test_the_peak_is_what_came_on_top_of_the_arena(runtime, memory):
    runtime.max_allocated_bytes = 350
    assert memory.peak_bytes == 250


def test_kernels_are_deterministic_and_precise(memory):
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_without_its_setting_cublas_is_refused(monkeypatch, runtime):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with pytest.raises(
        DeviceError, match="CUBLAS_WORKSPACE_CONFIG is None; byte-identical results need one of :4096:8"
    ):
        be_deterministic()
    FakeCudaDevice(memory_bytes=1 << 20, deterministic=False).open(64, 64, None).close()
    assert not torch.are_deterministic_algorithms_enabled()


# Lanes: done means that it has happened


@pytest.mark.parametrize("direction", ["h2d", "d2h"])
def test_a_copy_that_returned_has_arrived(direction, memory):
    host = ramp()
    part = memory.arena[64 : 64 + len(host)]
    if direction == "h2d":
        memory.copy(part, host, "h2d")
    else:
        memory.copy(part, host, "h2d")
        host = torch.zeros_like(host)
        memory.copy(host, part, "d2h")
    assert torch.equal(part, ramp())
    assert torch.equal(host, ramp())


def test_a_unit_that_returned_has_been_computed(memory):
    memory.fill(0, 64, 3)
    with memory.computing():
        memory.arena[64:128].copy_(memory.arena[:64].clone().mul_(2).add(1))
    assert memory.arena[64:128].unique().tolist() == [7]


def test_a_filled_range_is_filled(memory):
    memory.fill(0, 1 << 16, 0)
    memory.fill(128, 64, 0xFF)
    assert memory.arena.count_nonzero() == 64
    assert memory.arena[128:192].unique().tolist() == [0xFF]


def test_streams_are_made_once(runtime, memory):
    for _ in range(5):
        memory.copy(memory.arena[:64], ramp(64), "h2d")
        with memory.computing():
            memory.arena[:64].add_(1)
        memory.copy(torch.zeros(64, dtype=torch.uint8), memory.arena[:64], "d2h")
    assert len(runtime.streams) == 3


def test_lanes_do_not_wait_for_each_other(memory):
    held = threading.Event()
    memory._lanes["compute"].stream.issue(held.wait)
    copying = threading.Thread(target=memory.copy, args=(memory.arena[:64], ramp(64), "h2d"), daemon=True)
    copying.start()
    copying.join(20)  # only a net
    waits = copying.is_alive()
    held.set()
    assert not waits


def test_what_a_kernel_raises_reaches_the_lane(memory):
    with pytest.raises(RuntimeError, match="CUDA error"), memory.computing():
        torch.nn.functional.embedding(torch.full((2,), 9), torch.zeros(3, 4))


# The host store's registration


def mapped(nbytes):
    """Return memory that begins with a page, as the host store does."""
    return torch.frombuffer(mmap.mmap(-1, nbytes), dtype=torch.uint8)


@pytest.fixture
def host():
    return mapped(16 * PAGE)


def test_the_store_is_registered_as_it_comes_into_use(runtime, memory, host):
    start = host.data_ptr()
    memory.register_host(host, 3 * PAGE)
    assert runtime.registered == {start: 3 * PAGE}
    memory.copy(memory.arena[:64], host[:64], "h2d")
    assert runtime.registered == {start: 3 * PAGE}
    memory.copy(host[3 * PAGE - 64 : 5 * PAGE + 64], memory.arena[: 2 * PAGE + 128], "d2h")
    assert runtime.registered == {start: 3 * PAGE, start + 3 * PAGE: 3 * PAGE}


def test_no_copy_crosses_two_registrations(runtime, memory, host):
    memory.register_host(host, 2 * PAGE)
    host.copy_(ramp(16 * PAGE))
    memory.copy(memory.arena[: 4 * PAGE], host[PAGE : 5 * PAGE], "h2d")
    pieces = list(memory._host.pieces(host[PAGE : 7 * PAGE]))
    assert pieces == [slice(0, PAGE), slice(PAGE, 4 * PAGE), slice(4 * PAGE, 6 * PAGE)]
    memory.copy(memory.arena[: 6 * PAGE], host[PAGE : 7 * PAGE], "h2d")
    assert torch.equal(memory.arena[: 6 * PAGE], host[PAGE : 7 * PAGE])


def test_all_is_unregistered_on_close_after_the_last_copy(runtime, memory, host):
    memory.register_host(host, PAGE)
    memory.copy(memory.arena[:64], host[4 * PAGE : 4 * PAGE + 64], "h2d")
    with contextlib.suppress(ValueError), memory.computing():
        memory.arena.add_(1)
        raise ValueError("the unit failed")
    memory.close()  # the stand-in refuses to unregister under a copy that has not ended
    assert runtime.registered == {}
    assert not hasattr(memory, "arena")
    assert runtime.calls[-1][0] == "empty_cache"


@pytest.mark.parametrize("refuse_after", [0, 1])
def test_where_cuda_refuses_one_warning_says_what_it_costs(refuse_after, runtime, memory, host, caplog):
    runtime.refuse_after = refuse_after
    memory.register_host(host, PAGE)
    for start in (0, PAGE, 6 * PAGE):
        memory.copy(host[start : start + 64], memory.arena[:64], "d2h")
        memory.copy(memory.arena[64:128], host[start : start + 64], "h2d")
        assert torch.equal(memory.arena[:64], memory.arena[64:128])
    (warning,) = caplog.messages
    assert f"CUDA refused to register {PAGE:,} bytes of host memory (error 2)" in warning
    assert "slower" in warning
    assert len(runtime.registered) == refuse_after
    memory.close()
    assert runtime.registered == {}


def test_a_pageable_device_registers_nothing(runtime, host):
    memory = FakeCudaDevice(memory_bytes=1 << 20, pinned=False).open(1 << 12, 64, None)
    memory.register_host(host, PAGE)
    memory.copy(memory.arena[:64], host[:64], "h2d")
    assert runtime.registered == {}
    memory.close()


# Whole runs


def dropout_job(name, seed, cuts, optimizer):
    model = torch.nn.Sequential(perceptron(16, 24, seed=seed), torch.nn.Dropout(0.2), perceptron(24, 2))
    return small_job(name, 3, model, dataloader=pairs(3, 16, 2), optimizer=optimizer, seed=seed, cuts=cuts)


def make_jobs():
    return [
        dropout_job("A", 1, (1, 2), lambda p: torch.optim.AdamW(p, lr=0.1)),
        dropout_job("B", 2, (2,), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    ]


def answers(jobs):
    """Train copies by the reference loop, with randomness as the stand-in's device has it."""
    found = []
    be_deterministic()
    for job in jobs:
        with FakeCuda().reference(job.seed):
            found.append(expected(job, copy.deepcopy(job.dataloader)))
    return found


@pytest.fixture(scope="module")
def two_fakes():
    with DevicePool([FakeCudaDevice(memory_bytes=60_000, key=7, slow_s=0.003)] * 2) as pool:
        yield pool


@pytest.mark.parametrize("seed", range(6))
def test_a_run_is_exact_under_chaos_in_worker_processes(seed, two_fakes):
    jobs = make_jobs()
    wanted = answers(jobs)
    result = train(jobs, two_fakes.devices, policy="random", seed=seed, pool=two_fakes, chaos_seed=seed)
    assert sum((differences(job, result, answer) for job, answer in zip(jobs, wanted, strict=True)), []) == []
    assert result.timeline.moved_bytes > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_run_is_exact_under_chaos_in_this_process(seed, runtime):
    # Little memory, a shuffled loader that draws from the stream of dropout's neighbour, three mini-batches.
    runtime.slow_s = 0.003
    model = transformer(16, 0.1, seed)
    job = small_job(
        "A", model=model, loss_fn=functional.cross_entropy, dataloader=DATA["shuffled"](6), seed=seed, cuts=(2, 4),
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.01),
    )  # fmt: skip
    (wanted,) = answers([job])
    runtime.default_generators[0].manual_seed(99)
    with ThreadPool([FakeCudaDevice(memory_bytes=400_000)]) as pool:
        result = train([job], pool.devices, pool=pool, chaos_seed=seed)
    assert differences(job, result, wanted) == []
    assert runtime.registered == {}
    assert not any(stream.pending for stream in runtime.streams)


def test_a_device_that_cannot_be_opened_ends_the_run_with_its_sentence(runtime):
    runtime.free_bytes = 10
    with (
        ThreadPool([FakeCudaDevice(memory_bytes=60_000)]) as pool,
        pytest.raises(ExecutionError, match="device 0 could not be set up: DeviceError: the run needs"),
    ):
        train([small_job()], pool.devices, pool=pool)


# How much of the lanes' code the tests above run


@pytest.mark.skipif("HYDRASIM_COUNT_LINES" in os.environ, reason="this is the run that is counted")
def test_nearly_all_lines_run_without_a_gpu(tmp_path):
    found = tmp_path / "lines"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tests.executor.devices.lines", "-p", "no:cacheprovider",
         "-k", "not worker_processes", __file__],
        cwd=ROOT, env={**os.environ, "HYDRASIM_COUNT_LINES": str(found)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    for line in found.read_text().splitlines():
        name, percent, missed = line.split(maxsplit=2)
        assert float(percent) >= 95, f"{name}: {percent} %, not run: {missed}"


# The same on a GPU


@pytest.mark.gpu
@needs_gpu
def test_gpu_memory_is_nearly_all_unless_stated():
    assert CudaDevice(0, 1 << 20).describe().memory_bytes == 1 << 20
    total = torch.cuda.get_device_properties(0).total_memory
    assert total / 2 < CudaDevice(0).describe().memory_bytes < total


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("pinned", [True, False])
def test_gpu_copies_arrive(pinned, caplog):
    memory = CudaDevice(0, 1 << 24, pinned).open(1 << 20, 1 << 20, None)
    host = mapped(1 << 20)
    memory.register_host(host, 1 << 18)
    for start in (0, 1 << 17, 3 << 17):
        host[start : start + (1 << 18)].copy_(ramp(1 << 18))
        memory.copy(memory.arena[: 1 << 18], host[start : start + (1 << 18)], "h2d")
        with memory.computing():
            memory.arena[: 1 << 18].add_(1)
        memory.copy(host[start : start + (1 << 18)], memory.arena[: 1 << 18], "d2h")
        assert torch.equal(host[start : start + (1 << 18)], ramp(1 << 18) + 1)
    assert caplog.messages == []  # nothing was refused
    memory.close()


@pytest.mark.gpu
@needs_gpu
def test_gpu_registration_refused_leaves_no_error_behind(caplog):
    memory = CudaDevice(0, 1 << 24).open(1 << 16, 1 << 10, None)
    host = mapped(16 * PAGE)
    memory.register_host(host, PAGE)
    memory._host._ends.clear()  # the second registration of the same page is refused
    memory.copy(memory.arena[:64], host[:64], "h2d")
    assert "CUDA refused to register" in caplog.text
    torch.cuda.cudart().cudaHostUnregister(host.data_ptr())
    memory.close()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("chaos_seed", [None, 0, 1, 2])
def test_gpu_training_is_exact(chaos_seed):
    jobs, wanted = make_jobs(), []
    be_deterministic()
    for job in jobs:
        model = copy.deepcopy(job.module)
        losses, _ = train_plain(model, job.loss_fn, job.dataloader, job.optimizer, seed=job.seed, device="cuda")
        wanted.append((dict(model.named_parameters()), tuple(losses)))
    result = train(jobs, [CudaDevice(0, 60_000)], chaos_seed=chaos_seed)
    for job, (weights, losses) in zip(jobs, wanted, strict=True):
        assert identical(dict(job.module.named_parameters()), weights) == []
        assert result.jobs[job.name].losses == losses
