"""A stand-in for torch.cuda whose streams are threads: what is issued happens later, in order, or after a wait.

Device memory is CPU memory. Inside `stream(...)` a dispatch mode hands every operator to the stream's thread
and returns outputs that are still poison; views are made at once, `item()` waits, random operators draw from
the device's own generator when they are issued, as CUDA's do. So a missing wait gives wrong bytes.
"""

from __future__ import annotations

import contextlib
import queue
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from executor import CudaDevice

aten = torch.ops.aten
_SLOW_S = 0.02  # of the first operator after an idle moment: longer than any lane takes to go on without waiting


class Generator:
    """Counts as CUDA's does: a seed and an offset, 16 bytes of state, advanced when an operator is issued."""

    def __init__(self) -> None:
        self._seed = self._offset = 0

    def manual_seed(self, seed: int) -> None:
        self._seed, self._offset = seed, 0

    def get_state(self) -> torch.Tensor:
        return torch.frombuffer(bytearray(struct.pack("qq", self._seed, self._offset)), dtype=torch.uint8)

    def set_state(self, state: torch.Tensor) -> None:
        self._seed, self._offset = struct.unpack("qq", state.numpy().tobytes())

    def draw(self) -> torch.Generator:
        self._offset += 4
        return torch.Generator().manual_seed(self._seed * 1_000_003 + self._offset)


class Stream:
    """A thread that carries out what is issued, in order, in its own time."""

    def __init__(self, runtime: FakeCuda, name: str = "") -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._random, self._slow_s = random.Random(runtime.seed), runtime.slow_s
        self._error: BaseException | None = None
        self.pending = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name=f"stream {name}", daemon=True).start()

    def issue(self, work: Callable[[], None]) -> None:
        with self._lock:
            self.pending += 1
        self._queue.put(work)

    def synchronize(self) -> None:
        reached = threading.Event()
        self.issue(reached.set)
        reached.wait()
        self.check()

    def check(self) -> None:
        """Raise what an operator raised in the meantime, as a wait on a GPU does."""
        if self._error is not None:
            raise RuntimeError(f"CUDA error: {self._error!r}") from self._error

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            if self.pending == 1 or self._random.random() < 0.02:
                time.sleep(self._random.uniform(0.5, 1.0) * self._slow_s)
            try:
                work()
            except BaseException as error:
                self._error = error
            with self._lock:
                self.pending -= 1


class Event:
    """A point in a stream. Waiting for one that was never recorded returns at once, as CUDA's does."""

    def __init__(self, blocking: bool = False) -> None:
        self.blocking = blocking
        self._reached = threading.Event()
        self._reached.set()
        self._stream: Stream | None = None

    def record(self, stream: Stream) -> None:
        self._reached, self._stream = threading.Event(), stream
        stream.issue(self._reached.set)

    def synchronize(self) -> None:
        self._reached.wait()
        if self._stream is not None:
            self._stream.check()


class Deferred(TorchDispatchMode):
    """Hands operators to a stream. Without one (for a reference loop) only randomness is the device's."""

    def __init__(self, runtime: FakeCuda, stream: Stream | None) -> None:
        super().__init__()
        self._runtime, self._stream = runtime, stream

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._runtime.raise_stale_error()
        if func in (aten._local_scalar_dense.default, aten.equal.default):
            if self._stream is not None:
                self._stream.synchronize()
            return func(*args, **kwargs)
        if func.overloadpacket is aten.bernoulli_:  # dropout; all else that is random belongs to loaders
            drawn = torch.empty(args[0].shape, dtype=args[0].dtype)
            func(drawn, *args[1:], generator=self._runtime.default_generators[0].draw())
            func, args, kwargs = aten.copy_.default, (args[0], drawn), {}
        has_tensors = any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves((args, kwargs)))
        # With dropout, attention on a CPU falls back to bernoulli_; the fused operator does not draw.
        fused = func.overloadpacket is aten._scaled_dot_product_flash_attention_for_cpu
        drawing = torch.Tag.nondeterministic_seeded in func.tags and not fused
        assert self._stream is None or not drawing, f"the stand-in cannot draw for {func}"
        if self._stream is None or func.is_view or not has_tensors:
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            self._stream.issue(lambda: _below_autograd(func, args, kwargs))
            return args[0] if func._schema.returns else None
        outputs = pytree.tree_map_only(torch.Tensor, _poison_like, func(*_meta(args), **_meta(kwargs)))

        def compute() -> None:
            results = _below_autograd(func, args, kwargs)
            pairs = zip(pytree.tree_leaves(outputs), pytree.tree_leaves(results), strict=True)
            for output, result in pairs:
                if isinstance(output, torch.Tensor):
                    assert output.stride() == result.stride(), f"{func} has other strides on the meta device"
                    _below_autograd(aten.copy_.default, (output, result), {})

        self._stream.issue(compute)
        return outputs


def _below_autograd(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator as a kernel: no graph, and no second count of a change that was counted when it was issued."""
    with torch._C._AutoDispatchBelowADInplaceOrView():
        return func(*args, **kwargs)


def _meta(tree: Any) -> Any:
    def convert(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
        return torch.device("meta") if isinstance(leaf, torch.device) else leaf

    return pytree.tree_map(convert, tree)


def _poison_like(meta: torch.Tensor) -> torch.Tensor:
    made = torch.empty_strided(meta.shape, meta.stride(), dtype=meta.dtype)
    made.untyped_storage().fill_(0xFF)
    return made


class FakeCuda:
    """The part of torch.cuda that the executor uses, with a log of what was asked of it.

    calls: name and arguments. refuse_after: how many registrations of host memory succeed, None for all.
    registered: bytes by address, of what is registered now.
    """

    Event = staticmethod(Event)

    def __init__(
        self, seed: int = 0, slow_s: float = _SLOW_S, num_devices: int = 2, total_bytes: int = 1 << 30
    ) -> None:
        self.seed, self.slow_s, self._num_devices, self._total_bytes = seed, slow_s, num_devices, total_bytes
        self.free_bytes, self.allocated_bytes, self.max_allocated_bytes = total_bytes, 100, 100
        self.refuse_after: int | None = None
        self.registered: dict[int, int] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.streams: list[Stream] = []
        self.default_generators = [Generator() for _ in range(num_devices)]
        self._stale_error = ""
        self._making = threading.Lock()

    def Stream(self, device: int) -> Stream:  # noqa: N802
        with self._making:
            self.streams.append(Stream(self, f"{device}.{len(self.streams)}"))
        return self.streams[-1]

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        with Deferred(self, stream):
            yield

    @contextlib.contextmanager
    def reference(self, seed: int) -> Iterator[None]:
        """Compute as the device would, at once: for the loop that says what is right."""
        self.default_generators[0].manual_seed(seed)
        with Deferred(self, None):
            yield

    def raise_stale_error(self) -> None:
        """Report, once, the error that an earlier call left behind."""
        error, self._stale_error = self._stale_error, ""
        if error:
            raise RuntimeError(f"CUDA error: {error}")

    def is_available(self) -> bool:
        return self._num_devices > 0

    def device_count(self) -> int:
        return self._num_devices

    def get_device_properties(self, index: int) -> Any:
        return SimpleNamespace(total_memory=self._total_bytes)

    def get_device_name(self, index: int) -> str:
        return "Fake"

    def mem_get_info(self, index: int) -> tuple[int, int]:
        return self.free_bytes, self._total_bytes

    def memory_allocated(self, index: int) -> int:
        return self.allocated_bytes

    def max_memory_allocated(self, index: int) -> int:
        return self.max_allocated_bytes

    def synchronize(self, index: int) -> None:
        self.calls.append(("synchronize", index))
        for stream in self.streams:
            with contextlib.suppress(RuntimeError):
                stream.synchronize()

    def cudart(self) -> FakeCuda:
        return self

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802
        if self.refuse_after is not None and len(self.registered) >= self.refuse_after:
            self._stale_error = "out of memory"
            return 2
        assert address not in self.registered
        self.registered[address] = nbytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        assert not any(stream.pending for stream in self.streams), "unregistered under a copy"
        del self.registered[address]
        return 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Note a call that has no answer."""
        if name not in (
            "init",
            "set_device",
            "set_per_process_memory_fraction",
            "reset_peak_memory_stats",
            "empty_cache",
        ):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments))


_runtimes: dict[int, FakeCuda] = {}


@dataclass(frozen=True)
class FakeCudaDevice(CudaDevice):
    """A CudaDevice on the stand-in; key names the runtime, which every process makes for itself."""

    key: int = 0
    slow_s: float = _SLOW_S

    @property
    def runtime(self) -> FakeCuda:
        return _runtimes.setdefault(self.key, FakeCuda(self.key, self.slow_s))

    @property
    def place(self) -> torch.device:
        return torch.device("cpu")
