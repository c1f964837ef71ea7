"""A CUDA GPU: a persistent stream for each of the three lanes, each lane's thread waiting for its own.

    h2d thread      copy_ on the h2d stream ... record, wait > done
                                                               \\ the compute command waits for it in its lane
    compute thread                                              kernels on the compute stream ... record, wait > done
    d2h thread                                                                                      copy_ ...

A lane reports a command only when the lane's event has passed, and a command is not issued before those that
it follows are reported. So streams never need to wait for one another, tensors live as long as the frame that
waits for them, and nothing is left to `record_stream`.

Its lines run in CI on a stand-in for `torch.cuda` whose streams really are asynchronous
(tests/executor/devices/fake_cuda.py), and have run on an H100 (results/gpu/).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from executor.devices.base import Device, DeviceMemory
from executor.devices.pinned import PinnedHost
from executor.errors import DeviceError
from hydrasim.cluster import Device as SimulatedDevice

# cuBLAS and cuBLASLt take 32 MiB each under :4096:8, for the forward's thread and for the backward's; as much again
# is for the rounding of torch's allocator, which reserves in steps of up to 20 MiB. 96 MiB were used on an H100.
WORKSPACE_BYTES = 256 << 20
_USABLE_FRACTION = 0.9  # of the GPU where no size is given; the CUDA context takes its share of the rest
_EXACT_WORKSPACES = (":4096:8", ":16:8")


@dataclass(frozen=True)
class CudaDevice(Device):
    """A GPU by index. memory_bytes: how much of it to use; None for nearly all.

    memory_bytes holds the arena, what units have alive beside it, and the models' constant buffers; torch's
    allocator is stopped at that plus WORKSPACE_BYTES. The CUDA context (some hundred MiB) is outside.

    pinned: register the host store with CUDA; without, copies are slower (for comparison).
    deterministic: see `be_deterministic`.

    Raises:
        DeviceError: when described or opened on a machine without it, or with less memory than stated.
    """

    index: int = 0
    memory_bytes: int | None = None
    pinned: bool = True
    deterministic: bool = True

    def __post_init__(self) -> None:
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise DeviceError(f"CudaDevice: memory_bytes is {self.memory_bytes}; it must be at least 1.")

    @property
    def runtime(self) -> Any:
        """What stands for torch.cuda; tests put another in its place."""
        return torch.cuda

    @property
    def place(self) -> torch.device:
        """Where torch puts this device's tensors."""
        return torch.device("cuda", self.index)

    def describe(self) -> SimulatedDevice:
        total_bytes = self._total_bytes()
        usable_bytes = int(total_bytes * _USABLE_FRACTION) - WORKSPACE_BYTES
        if self.memory_bytes is not None and self.memory_bytes > usable_bytes:
            raise DeviceError(
                f"CudaDevice: memory_bytes is {self.memory_bytes:,}; GPU {self.index} has {total_bytes:,}, of which "
                f"{max(0, usable_bytes):,} can be promised beside the CUDA context and the libraries' workspaces."
            )
        kind = f"cuda {self.runtime.get_device_name(self.index)}" + ("" if self.pinned else ", pageable")
        return SimulatedDevice(usable_bytes if self.memory_bytes is None else self.memory_bytes, kind=kind)

    def open(self, arena_bytes: int, working_bytes: int, link_fd: int | None) -> DeviceMemory:
        return _CudaMemory(self, arena_bytes, working_bytes)

    def limit_fraction(self) -> float:
        """Return the share of the GPU at which torch's allocator stops."""
        return min(1.0, (self.describe().memory_bytes + WORKSPACE_BYTES) / self._total_bytes())

    def _total_bytes(self) -> int:
        if not self.runtime.is_available():
            raise DeviceError("no CUDA device is available here; use --device cpu for emulated devices.")
        count = self.runtime.device_count()
        if not 0 <= self.index < count:
            raise DeviceError(f"there is no CUDA device {self.index}; this machine has {count}.")
        return int(self.runtime.get_device_properties(self.index).total_memory)


def be_deterministic() -> None:
    """Have torch choose the same kernels every time, in full precision; the reference loop needs it too.

    Raises:
        DeviceError: cuBLAS would not follow, since its setting is not in the environment.
    """
    found = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if found not in _EXACT_WORKSPACES:
        raise DeviceError(
            f"CUBLAS_WORKSPACE_CONFIG is {found!r}; byte-identical results need one of {', '.join(_EXACT_WORKSPACES)} "
            "in the environment before CUDA starts."
        )
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # finds bugs, changes no result
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


class _Lane:
    """A stream, and the event by which its thread knows that the stream's work has happened."""

    def __init__(self, runtime: Any, index: int) -> None:
        self._runtime = runtime
        self.stream = runtime.Stream(index)
        self._event = runtime.Event(blocking=True)  # the thread sleeps meanwhile, and leaves the core to others

    @contextlib.contextmanager
    def issuing(self) -> Iterator[None]:
        """Issue work to the stream; leaving waits for it."""
        with self._runtime.stream(self.stream):
            yield
            self._event.record(self.stream)
        self._event.synchronize()


class _CudaMemory(DeviceMemory):
    def __init__(self, device: CudaDevice, arena_bytes: int, working_bytes: int) -> None:
        if device.deterministic:
            be_deterministic()
        self._runtime, self._index, self._pinned = device.runtime, device.index, device.pinned
        fraction = device.limit_fraction()
        self._runtime.init()
        self._runtime.set_device(self._index)
        free_bytes, _ = self._runtime.mem_get_info(self._index)
        if arena_bytes + working_bytes > free_bytes:
            raise DeviceError(
                f"the run needs {arena_bytes + working_bytes:,} bytes of GPU {self._index}; {free_bytes:,} are "
                "free there. End what else uses it, or give the device a smaller memory_bytes."
            )
        self._runtime.set_per_process_memory_fraction(fraction, self._index)
        self.place = device.place
        self.generator = self._runtime.default_generators[self._index]
        self.arena = torch.empty(max(1, arena_bytes), dtype=torch.uint8, device=self.place)
        self._lanes = {name: _Lane(self._runtime, self._index) for name in ("h2d", "compute", "d2h")}
        self._host: PinnedHost | None = None
        self._runtime.reset_peak_memory_stats(self._index)
        self._at_rest_bytes = self._runtime.memory_allocated(self._index)

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive at once outside the arena: models' constant buffers and workspaces count, too."""
        return int(self._runtime.max_memory_allocated(self._index) - self._at_rest_bytes)

    def register_host(self, store: torch.Tensor, used_bytes: int) -> None:
        if self._pinned:
            self._host = PinnedHost(self._runtime.cudart(), store, used_bytes, self._forget_error)

    def copy(self, target: torch.Tensor, source: torch.Tensor, direction: str) -> None:
        with self._lanes[direction].issuing():
            for piece in self._pieces(source if direction == "h2d" else target):
                target[piece].copy_(source[piece], non_blocking=True)

    def fill(self, start: int, nbytes: int, value: int) -> None:
        with self._lanes["h2d"].issuing():
            self.arena[start : start + nbytes].fill_(value)

    def computing(self) -> contextlib.AbstractContextManager[None]:
        return self._lanes["compute"].issuing()

    def exempt(self, tensors: Iterable[torch.Tensor]) -> None:
        """Do nothing: memory_bytes, and so the allocator's limit, holds constant tensors as well."""

    def lower_budget(self, nbytes: int) -> None:
        """Do nothing; see `exempt`."""

    def close(self) -> None:
        self._runtime.synchronize(self._index)  # a unit that failed left without waiting
        if self._host is not None:
            self._host.close()
        del self.arena
        # Every stream keeps a workspace of its own, and the next run's streams are others.
        getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()
        self._runtime.empty_cache()

    def _pieces(self, host: torch.Tensor) -> Iterator[slice]:
        return iter([slice(0, len(host))]) if self._host is None else self._host.pieces(host)

    def _forget_error(self) -> None:
        """Take a refused call's error off the runtime, by a launch that reports it in place of a later one."""
        with contextlib.suppress(RuntimeError), self._runtime.stream(self._lanes["h2d"].stream):
            torch.zeros(1, device=self.place)
