"""Ctrl-C in a run that keeps checkpoints: jobs end with a checkpoint first; a second one ends the run at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from executor.train import RunResult


class Suspended(KeyboardInterrupt):
    """Ctrl-C ended a run whose jobs have checkpoints to go on from. result: what the run came to."""

    def __init__(self, result: RunResult) -> None:
        super().__init__("the run was interrupted; its jobs can go on from their checkpoints.")
        self.result = result


class Interrupt:
    """Tells of Ctrl-C by something to read, once. happened: whether it came."""

    def __init__(self) -> None:
        self.reader, self._writer = Pipe(duplex=False)
        self.happened = False

    @contextmanager
    def awaited(self) -> Iterator[Interrupt]:
        """Take Ctrl-C meanwhile, in the main thread; elsewhere there is none."""
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT) if is_main else None
        takes = is_main and before is signal.default_int_handler
        if takes:
            signal.signal(signal.SIGINT, self._note)
        try:
            yield self
        finally:
            if takes:
                signal.signal(signal.SIGINT, before)
            self._writer.close()
            self.reader.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.happened = True
        with suppress(OSError):
            self._writer.send_bytes(b"!")
