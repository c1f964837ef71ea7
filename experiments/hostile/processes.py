"""Runs the command line in a process of its own, hurts it, and says what it left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
_MARK = "HYDRASIM_HOSTILE_MARK"
_PATIENCE_S = 20.0  # for what has to end with its parent
_MAX_LINES, _MAX_LETTERS = 30, 6000  # of a message


@dataclass(frozen=True)
class Attack:
    """One process and what is done to it.

    arguments: of the command line. codes: the exit codes that are right. outputs: files that may be
    written, with what tells whether one is whole. strike: called with the process and its mark once it
    runs; says when it was done. max_file_bytes: the limit on files (a full disk).
    """

    kind: str
    arguments: tuple[str, ...]
    codes: tuple[int, ...] = (0, 2)
    outputs: dict[str, Callable[[Path], object]] = field(default_factory=dict)
    strike: Callable[[subprocess.Popen[bytes], str, Random], None] | None = None
    max_file_bytes: int | None = None
    stdout: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of an attack; problems: by kind (traceback, hung, orphan, half-written, code, message)."""

    kind: str
    arguments: tuple[str, ...]
    code: int | None
    problems: dict[str, str]


def run_attack(attack: Attack, folder: Path, rng: Random, limit_s: float) -> Outcome:
    """Run it in the folder; every process that it starts inherits a mark, by which the rest is found."""
    mark = uuid.uuid4().hex
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    before = {name: (folder / name).read_bytes() for name in attack.outputs if (folder / name).is_file()}
    names = _names(folder)
    environment = {**os.environ, _MARK: mark, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    out = open(attack.stdout, "wb") if attack.stdout else subprocess.PIPE  # noqa: SIM115 - closed below
    with _start(attack, folder, environment, out) as process:
        said = [_Reader(pipe) for pipe in (process.stdout, process.stderr) if pipe is not None]
        problems = {}
        try:
            if attack.strike is not None:
                attack.strike(process, mark, rng)
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            problems["hung"] = f"it still ran after {limit_s:.0f} s"
        finally:
            orphans = wait_gone(mark, 0.0 if problems else _PATIENCE_S, but=process.pid)
            end_marked(mark)
            process.wait()
        text = "".join(reader.text() for reader in said)
    if not isinstance(out, int):
        out.close()
    killed = process.returncode == -signal.SIGKILL
    if orphans and not problems:
        problems["orphan"] = ", ".join(orphans)
    if not (attack.strike is not None and _is_interpreters(text)):
        problems |= _check_text(text, process.returncode, problems, attack.codes)
    for name, is_whole in attack.outputs.items():
        if not _whole(folder / name, before.get(name), is_whole):
            problems["half-written"] = name
    left = {name for name in _names(folder) - names - set(attack.outputs) if not _may_stay(name)}
    if attack.strike is not None:  # a killed process of a DataLoader leaves its socket
        left = {name for name in left if not name.startswith("tmp/pymp-")}
    if left and not killed:
        problems["leftover"] = ", ".join(sorted(left))
    return Outcome(attack.kind, attack.arguments, process.returncode, problems)


def marked(mark: str) -> dict[int, str]:
    """Return the running processes with the mark and their command lines; zombies have no environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


def wait_gone(mark: str, patience_s: float, but: int = 0) -> list[str]:
    """Wait until no process has the mark; return the command lines of those that stay."""
    deadline_s = time.monotonic() + patience_s
    while True:
        left = [line for pid, line in marked(mark).items() if pid != but]
        if not left or time.monotonic() > deadline_s:
            return left
        time.sleep(0.05)


def end_marked(mark: str) -> None:
    """Kill what is left, which only this attack started."""
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)


def interrupt(least_s: float, most_s: float) -> Callable[[subprocess.Popen[bytes], str, Random], None]:
    """Press Ctrl-C at a random moment; at times twice."""

    def strike(process: subprocess.Popen[bytes], mark: str, rng: Random) -> None:
        for delay_s in (rng.uniform(least_s, most_s), *((rng.uniform(0.0, 0.3),) if rng.random() < 0.3 else ())):
            try:
                process.wait(delay_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)

    return strike


def kill(victim: str, most_s: float) -> Callable[[subprocess.Popen[bytes], str, Random], None]:
    """Kill the parent, or a process whose command line has the word, a random moment after there is one."""

    def strike(process: subprocess.Popen[bytes], mark: str, rng: Random) -> None:
        for _ in _moments(process):
            workers = {pid for pid, line in marked(mark).items() if "executor." in line}
            found = [pid for pid, line in marked(mark).items() if victim in line and pid != process.pid]
            if workers if victim == "parent" else found:
                break
        try:
            process.wait(rng.uniform(0.0, most_s))
        except subprocess.TimeoutExpired:
            there = [pid for pid, line in marked(mark).items() if victim in line and pid != process.pid]
            for pid in [process.pid] if victim == "parent" else there and [rng.choice(there)]:
                os.kill(pid, signal.SIGKILL)

    return strike


def _moments(process: subprocess.Popen[bytes]) -> Iterator[None]:
    while process.poll() is None:
        yield
        time.sleep(0.05)


def _start(attack: Attack, folder: Path, environment: dict[str, str], out: Any) -> subprocess.Popen[bytes]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore Ctrl-C
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments", *attack.arguments],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    if attack.max_file_bytes is not None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (attack.max_file_bytes,) * 2)
    return process


def _check_text(text: str, code: int, problems: dict[str, str], codes: tuple[int, ...]) -> dict[str, str]:
    found = {}
    if "Traceback" in text:
        found["traceback"] = text[-3000:]
    elif code not in codes and "hung" not in problems:
        found["code"] = f"{code} is none of {codes}: {text[-500:]}"
    if code == 2 and (not text.strip() or len(text) > _MAX_LETTERS or text.count("\n") > _MAX_LINES):
        found["message"] = text[:_MAX_LETTERS] or "there is none"
    return found


def _is_interpreters(text: str) -> bool:
    """Tell whether Ctrl-C met the interpreter before any of our code ran."""
    files = [line for line in text.splitlines() if line.lstrip().startswith('File "')]
    return "KeyboardInterrupt" in text and not any(f'File "{ROOT}/{package}' in line for line in files
        for package in ("hydrasim", "executor", "experiments"))  # fmt: skip


def _whole(path: Path, before: bytes | None, is_whole: Callable[[Path], object]) -> bool:
    if not path.is_file():
        return before is None
    if path.read_bytes() == before:
        return True
    try:
        is_whole(path)
    except Exception:
        return False
    return True


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _may_stay(name: str) -> bool:
    """Tell what may be left: a folder for weights, what a measurement resumes from, torch's and Python's caches."""
    if name.endswith(".tmp"):
        return False
    return name == "weights" or name.endswith(".partial") or name.startswith(("tmp/torchinductor_", "__pycache__"))


class _Reader(threading.Thread):
    """Reads a pipe to its end, so that whoever writes never waits."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe, self._data = pipe, b""
        self.start()

    def run(self) -> None:
        self._data = self._pipe.read()

    def text(self) -> str:
        self.join(_PATIENCE_S)
        return self._data.decode(errors="replace")
