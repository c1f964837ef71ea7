"""Files are read with a limit, and written whole or not at all."""

from __future__ import annotations

import gzip
import os
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hydrasim import HydraError
from hydrasim.disk import make_folder, read_text, replacing, write_text
from hydrasim.errors import PlanError


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PlanError, match="cannot read .*pipe: it is no regular file"):
        read_text(tmp_path / "pipe", PlanError)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/full"])
def test_devices_are_refused(tmp_path: Path, device: str):
    (tmp_path / "link").symlink_to(device)
    with pytest.raises(PlanError, match="cannot read .*link: it is no regular file"):
        read_text(tmp_path / "link", PlanError)


@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_a_file_that_keeps_its_readers_waiting_is_refused(tmp_path: Path, name: str):
    # The kernel's log looks like a regular file, and gave None; one that has news would give those.
    log = os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while os.read(log, 1 << 16):
            pass
    os.close(log)
    (tmp_path / name).symlink_to("/proc/kmsg")
    with pytest.raises(PlanError, match="cannot read .*x"):
        read_text(tmp_path / name, PlanError)


def test_links_in_a_circle_and_folders_are_refused(tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(PlanError, match="cannot read .*loop: Too many levels of symbolic links"):
        read_text(tmp_path / "loop", PlanError)
    with pytest.raises(PlanError, match="cannot read .*: Is a directory"):
        read_text(tmp_path, PlanError)


def test_what_is_too_large_is_refused_before_it_is_read(tmp_path: Path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(PlanError, match="sparse holds more than 256 MiB"):
        read_text(tmp_path / "sparse", PlanError)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(3 << 20)))
    with pytest.raises(PlanError, match="bomb.gz holds more than 2 MiB"):
        read_text(tmp_path / "bomb.gz", PlanError, limit_bytes=2 << 20)


@pytest.mark.parametrize(
    "data", [b"no gzip", gzip.compress(b"x" * 100, mtime=0)[:-9], gzip.compress(b"x", mtime=0)[:12]]
)
def test_what_does_not_unpack_is_refused(tmp_path: Path, data: bytes):
    (tmp_path / "x.gz").write_bytes(data)
    with pytest.raises(PlanError, match="cannot read .*x.gz: "):
        read_text(tmp_path / "x.gz", PlanError)


def test_text_survives_packed_and_plain(tmp_path: Path):
    for name in ("x.txt", "x.gz"):
        write_text(tmp_path / name, "one\ntwo")
        assert read_text(tmp_path / name, PlanError) == "one\ntwo"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_what_stops_the_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path, stop: type[BaseException]):
    # Ctrl-C once left the temporary file behind.
    (tmp_path / "a").write_text("old")
    with pytest.raises(stop), replacing(tmp_path / "a") as temporary:  # noqa: PT012
        temporary.write_text("ne")
        raise stop
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(HydraError, match="cannot write .*a: File too large"):
            write_text(tmp_path / "a", "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_link_keeps_pointing_to_what_it_names(tmp_path: Path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_a_device_is_written_into_and_not_replaced(tmp_path: Path):
    # As root, `-o /dev/null` once put a file in its place.
    (tmp_path / "null").symlink_to("/dev/null")
    write_text(tmp_path / "null", "gone")
    assert (tmp_path / "null").is_char_device()
    assert Path("/dev/null").is_char_device()
    with pytest.raises(HydraError, match="cannot write /dev/full: No space left on device"):
        write_text(Path("/dev/full"), "x")


def test_a_pipe_is_written_into_if_somebody_reads_it(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HydraError, match="cannot write .*pipe: No such device or address"):
        write_text(tmp_path / "pipe", "x")
    imports = "from pathlib import Path; from hydrasim.disk import write_text"
    program = f"{imports}; write_text(Path('/dev/stdout'), 'x' * {1 << 18})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout == "x" * (1 << 18)


@pytest.mark.parametrize("name", ["missing/a", "file/a", "folder", "x" * 300, "loop"])
def test_what_cannot_be_written_says_why(tmp_path: Path, name: str):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(HydraError, match="cannot write .*: "):
        write_text(tmp_path / name, "x")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_cannot_be_made_says_why(tmp_path: Path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(HydraError, match="cannot make the folder .*file: File exists"):
        make_folder(tmp_path / "file")
    with pytest.raises(HydraError, match="cannot make the folder .*x: Not a directory"):
        make_folder(tmp_path / "file" / "x")
