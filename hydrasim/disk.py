"""Whole files: read with a limit, written whole or not at all."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from hydrasim.errors import HydraError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILE_BYTES = 1 << 28


def read_text(path: Path, error: type[HydraError], limit_bytes: int = MAX_FILE_BYTES) -> str:
    """Read a text file, packed if its name ends in .gz, or raise `error` with what is wrong with it.

    Devices and pipes are refused: some of them never end, and others never begin.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise error(f"cannot read {path}: it is no regular file; copy what it gives into one.")
            if found.st_size > limit_bytes:
                raise error(f"{path} holds more than {limit_bytes >> 20} MiB; this is no file of ours.")
            data = file.read(limit_bytes + 1)
        if data is None:  # some files of the system keep their readers waiting
            raise error(f"cannot read {path}: it gives nothing; copy what it is to give into a file.")
        if path.suffix == ".gz":
            data = gzip.GzipFile(fileobj=BytesIO(data)).read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise error(f"{path} holds more than {limit_bytes >> 20} MiB; this is no file of ours.")
        return data.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as reason:
        raise error(f"cannot read {path}: {getattr(reason, 'strerror', None) or reason}.") from None


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; packed if its name ends in .gz."""
    data = text.encode("utf-8")
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write a file; that takes the place of `path` when all went well, and else goes.

    A link keeps pointing to what it names. What is no regular file (/dev/null, /dev/stdout, a pipe) gets
    the content copied into it, since putting a file in its place would destroy it.

    Raises:
        HydraError: the file cannot be written.
    """
    try:
        special = path.exists() and not path.is_file()
        target = path.resolve()
        folder = Path(gettempdir()) if special else target.parent
        temporary = folder / f".{os.getpid()}-{len(path.name)}-{path.name[:100]}.tmp"
        try:
            yield temporary
            if special:
                _copy_into(path, temporary.read_bytes())
            else:
                temporary.replace(target)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except (OSError, RuntimeError) as reason:  # RuntimeError: links in a circle
        raise HydraError(f"cannot write {path}: {getattr(reason, 'strerror', None) or reason}.") from None


def make_folder(path: Path) -> None:
    """Make a folder to write into, and those that it lies in, unless it is there.

    Raises:
        HydraError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise HydraError(f"cannot make the folder {path}: {reason.strerror}.") from None


def _copy_into(path: Path, data: bytes) -> None:
    """Write into a device or pipe; a pipe that nobody reads is an error, not an endless wait."""
    with open(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb") as file:
        os.set_blocking(file.fileno(), True)
        file.write(data)
