"""A pytest plug-in that counts which lines of the CUDA lanes ran, on any thread, without another dependency."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

FOLDER = Path(__file__).resolve().parents[3] / "executor" / "devices"
MODULES = {str(FOLDER / name): set() for name in ("cuda.py", "pinned.py")}


def _trace(frame: FrameType, event: str, argument: object) -> Any:
    lines = MODULES.get(frame.f_code.co_filename)
    if lines is None:
        return None

    def local(frame: FrameType, event: str, argument: object) -> Any:
        lines.add(frame.f_lineno)
        return local

    return local(frame, event, argument)


def _executable(code: CodeType) -> set[int]:
    """Return the lines that have instructions, in the code and in all code within it."""
    lines = {line for _, _, line in code.co_lines() if line}
    return lines.union(*(_executable(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def pytest_sessionfinish() -> None:
    """Write a line for each module: its name, the percentage of its lines that ran, and those that did not."""
    sys.settrace(None)
    with open(os.environ["HYDRASIM_COUNT_LINES"], "w") as file:
        for name, ran in MODULES.items():
            every = _executable(compile(Path(name).read_text(), name, "exec"))
            missed = sorted(every - ran)
            file.write(f"{Path(name).name} {100 * (1 - len(missed) / len(every)):.1f} {missed}\n")


sys.settrace(_trace)
threading.settrace(_trace)
