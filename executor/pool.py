"""The worker processes: one a device, one that forks loaders, and one for updates on the host; kept between runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import cloudpickle

from executor.devices import CpuDevice, Device
from executor.devices.cpu import LinkClock
from executor.errors import ExecutionError
from executor.messages import Addition, Broken, LoaderSetup, Setup, UpdaterSetup, Used
from executor.process import Child, children_of
from executor.replacement import Replacement

UPDATER = "the process that updates in host memory"


class DevicePool:
    """Worker processes for some devices. Starting one costs more than a second, so keep the pool.

    Use it as a context manager; leaving it ends every process.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = tuple(devices)
        self.workers: list[Child] = []
        self._loader_host: Child | None = None
        self.updater: Child | None = None
        self._loaders: dict[str, Connection] = {}
        self._replacements: list[Replacement] = []
        self._links: dict[object, int] = {}

    def __enter__(self) -> DevicePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the processes that do not run: at first all; all again when one died between runs."""
        if any(child.has_ended for child in self._children):
            self.close()
        while len(self.workers) < len(self.devices):
            self.workers.append(Child("executor.worker"))
        if self._loader_host is None:
            self._loader_host = Child("executor.loader")

    def open(self, setups: Sequence[Setup], store_fd: int) -> None:
        """Have every worker reserve its memory and build its modules.

        Raises:
            ExecutionError: a worker could not.
        """
        self.start()
        for index, (worker, setup) in enumerate(zip(self.workers, setups, strict=True)):
            with _named(worker, f"the worker of device {index}"):
                self._send_setup(worker, index, setup, store_fd)
        for index, answer in enumerate(self._answers()):
            if isinstance(answer, Broken):
                raise ExecutionError(f"device {index} could not be set up: {answer.text}")

    def replace(self, index: int, setup: Setup, store_fd: int, told: Callable[[], None]) -> Replacement:
        """Start a worker in the place of one that ended; `install` it once it is ready. told: see `Replacement`."""
        self.workers[index].kill()
        made = Replacement(index, len(setup.jobs), lambda new: self._send_setup(new, index, setup, store_fd), told)
        self._replacements.append(made)
        return made

    def replace_updater(self, setup: UpdaterSetup, store_fd: int, told: Callable[[], None]) -> Replacement:
        """Start another process that updates in host memory; `install` it once it is ready."""
        assert self.updater is not None
        self.updater.kill()
        made = Replacement(None, len(setup.jobs), lambda new: _set_up_updater(new, setup, store_fd), told)
        self._replacements.append(made)
        return made

    def install(self, replacement: Replacement) -> Child:
        """Have a new process be the one that gets orders; return it."""
        assert replacement.child is not None
        self._replacements.remove(replacement)
        if replacement.device is None:
            self.updater = replacement.child
        else:
            self.workers[replacement.device] = replacement.child
        return replacement.child

    def open_loaders(self, setups: Sequence[LoaderSetup], store_fd: int) -> dict[str, Connection]:
        """Fork a loader process for each job; return the connections by job once all are ready.

        Raises:
            ExecutionError: a dataloader could not be made there.
        """
        assert self._loader_host is not None
        if self._loader_host.has_ended:
            self._loader_host.kill()
            self._loader_host = Child("executor.loader")
        opened: dict[str, Connection] = {}
        for setup in setups:
            own, other = socket.socketpair()
            opened[setup.job] = Connection(own.detach())
            self._loaders[setup.job] = opened[setup.job]
            with other, _named(self._loader_host, f"job {setup.job!r}: the process that forks loaders"):
                self._loader_host.connection.send(setup)
                self._loader_host.send_fd(store_fd)
                self._loader_host.send_fd(other.fileno())
        for name, connection in opened.items():
            try:
                answer = connection.recv()
            except (EOFError, OSError):
                answer = [Broken(-1, "setup", "the process ended")]
            if answer != "ready":
                raise ExecutionError(f"job {name!r}: its loader could not be set up: {answer[0].text}")
        return opened

    @property
    def loader_pids(self) -> list[int]:
        """The loader processes that run, the one that was forked first before the others."""
        return [] if self._loader_host is None else children_of(self._loader_host.pid)

    def close_loader(self, job: str) -> None:
        """Hang up on a job's loader, which ends it."""
        self._loaders.pop(job).close()

    def add(self, addition: Addition) -> None:
        """Have every worker that runs make one more job's modules, before it gets orders for them."""
        for index, worker in self._running_workers():
            with _named(worker, f"the worker of device {index}"):
                worker.connection.send(addition)

    def add_to_updater(self, addition: Addition) -> None:
        """Have the process that updates in host memory, if it runs, make one more job's optimizers."""
        assert self.updater is not None
        if self.updater.connection.closed:
            return
        with _named(self.updater, UPDATER):
            self.updater.connection.send(addition)

    def open_updater(self, setup: UpdaterSetup, store_fd: int) -> None:
        """Have a process of its own make the optimizers of the jobs that update in host memory.

        Raises:
            ExecutionError: it could not.
        """
        if self.updater is None:
            self.updater = Child("executor.updater")
        with _named(self.updater, UPDATER):
            _set_up_updater(self.updater, setup, store_fd)
            answer = self.updater.connection.recv()
        if isinstance(answer, Broken):
            raise ExecutionError(f"{UPDATER} could not be set up: {answer.text}")

    def has_link(self, index: int) -> bool:
        device = self.devices[index]
        return isinstance(device, CpuDevice) and device.link_bytes_per_s is not None

    def end_run(self) -> list[Used]:
        """Free what the run held in the workers; return what it took of each device."""
        self._close_loaders()
        self._close_replacements()
        if self.updater is not None and self.updater.connection.closed:
            self.updater = None
        if self.updater is not None:
            with _named(self.updater, UPDATER):
                self.updater.connection.send("close")
                _last_of(self.updater)
        used = [Used(0, {})] * len(self.workers)
        for index, worker in self._running_workers():
            with _named(worker, f"the worker of device {index}"):
                worker.connection.send("close")
        for index, worker in self._running_workers():
            with _named(worker, f"the worker of device {index}"):
                used[index] = _last_of(worker)
        return used

    def close(self) -> None:
        """End every process, whatever it is doing."""
        self._close_loaders()
        self._close_replacements()
        for child in self._children:
            child.kill()
        self.workers, self._loader_host, self.updater = [], None, None
        for fd in self._links.values():
            os.close(fd)
        self._links.clear()

    @property
    def _children(self) -> list[Child]:
        return [*self.workers, *filter(None, [self._loader_host, self.updater])]

    def _answers(self) -> Iterator[Any]:
        for index, worker in enumerate(self.workers):
            with _named(worker, f"the worker of device {index}"):
                answer = worker.connection.recv()
            yield answer

    def _running_workers(self) -> list[tuple[int, Child]]:
        return [(index, worker) for index, worker in enumerate(self.workers) if not worker.connection.closed]

    def _send_setup(self, worker: Child, index: int, setup: Setup, store_fd: int) -> None:
        link_fd = self._link(index)
        worker.connection.send_bytes(cloudpickle.dumps(setup))  # a device may be of a class in __main__
        worker.send_fd(store_fd)
        if link_fd is not None:
            worker.send_fd(link_fd)

    def _close_replacements(self) -> None:
        while self._replacements:
            self._replacements.pop().close()

    def _close_loaders(self) -> None:
        for job in list(self._loaders):
            self.close_loader(job)

    def _link(self, index: int) -> int | None:
        """Return the descriptor of a device's link clock; devices on one bus share it."""
        device = self.devices[index]
        if not self.has_link(index):
            return None
        assert isinstance(device, CpuDevice)
        name: object = device.shared or index
        if name not in self._links:
            self._links[name] = LinkClock.create()
        return self._links[name]


def _last_of(child: Child) -> Any:
    """Return what a process says of its run, after reports of what nobody waited for any more."""
    while isinstance(answer := child.connection.recv(), list):
        pass
    return answer


def _set_up_updater(child: Child, setup: UpdaterSetup, store_fd: int) -> None:
    child.connection.send(setup)
    child.send_fd(store_fd)


@contextmanager
def _named(child: Child, name: str) -> Iterator[None]:
    """Say which process ended, and how, when talking to it fails."""
    try:
        yield
    except (EOFError, OSError):
        raise ExecutionError(f"{name} {child.describe_end()} while idle.") from None
