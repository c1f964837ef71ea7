"""A pool whose device workers are threads of this process, so that tests see their lines and their devices."""

from __future__ import annotations

import os
import threading
from multiprocessing import Pipe
from queue import SimpleQueue

from executor import DevicePool
from executor.host_store import StoreView
from executor.messages import Broken, Setup
from executor.process import Child
from executor.worker import Run


class ThreadWorker:
    """What `executor.worker.main` does, on a thread. It stands where the pool has a child process."""

    has_ended = False

    def __init__(self) -> None:
        self.connection, self._other = Pipe()
        self._fds: SimpleQueue[int] = SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def send_fd(self, fd: int) -> None:
        self._fds.put(os.dup(fd))

    def describe_end(self) -> str:
        return "ended"

    def kill(self) -> None:
        self.connection.close()

    def _serve(self) -> None:
        run: Run | None = None
        fd = -1
        while True:
            try:
                message = self._other.recv()
            except EOFError:
                return
            if isinstance(message, Setup):
                fd = self._fds.get()
                try:
                    run = Run(message, StoreView(fd, message.store_bytes, message.places), None, self._other)
                    self._other.send("ready")
                except Exception as error:
                    self._other.send(Broken(-1, "setup", f"{type(error).__name__}: {error}"))
            elif message == "close":
                self._other.send(run.close())
                os.close(fd)
            else:
                orders, numbers = message
                run.done_elsewhere(numbers)
                run.submit(orders)


class ThreadPool(DevicePool):
    """One device only where CPU generators matter: threads share them. Loaders are processes, as ever."""

    def start(self) -> None:
        while len(self.workers) < len(self.devices):
            self.workers.append(ThreadWorker())
        if self._loader_host is None:
            self._loader_host = Child("executor.loader")
