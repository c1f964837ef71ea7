"""Runs the command line, whatever moment Ctrl-C comes at: while modules load, while they work, at the end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

INTERRUPTED = 130


class Interruption:
    """Remembers that Ctrl-C came: what it breaks off may fail in another way, or swallow it."""

    def __init__(self) -> None:
        self.came = False
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as in the background
            signal.signal(signal.SIGINT, self._interrupt)
            sys.unraisablehook = self._again

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt

    def _again(self, lost: Any) -> None:
        """Raise it anew, a moment later, where Python cannot pass it on, such as in a destructor."""
        if isinstance(lost.exc_value, KeyboardInterrupt):
            main_thread = threading.main_thread().ident or 0
            threading.Timer(0.05, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
        else:
            sys.__unraisablehook__(lost)


def main() -> None:
    """Run the command line; the entry point of the `hydrasim` script."""
    interruption = Interruption()
    code: Any = 0
    try:
        from experiments.cli import app

        app()
    except SystemExit as end:
        code = end.code
    except BaseException:
        if not interruption.came:
            raise
        print("interrupted", file=sys.stderr)  # noqa: T201 - before anything that prints is there
        code = INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if interruption.came and code:
        # Not sys.exit: if Ctrl-C met a module written in C, the interpreter would end itself by the signal.
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(INTERRUPTED)
    sys.exit(code)


if __name__ == "__main__":
    main()
