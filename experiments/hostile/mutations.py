"""Ways to spoil a file: bytes, text, values, and things that are no files at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

_NUMBERS = (
    "NaN", "Infinity", "-Infinity", ".nan", ".inf", "-1", "-0.0", "1e999", "1e308", "5e-324", "0", "9" * 400,
    "9" * 6000, "9223372036854775807", "9223372036854775808", "1.5", "0x10", "1_0", "010", "true", "null",
    '"7"', "[]", "{}",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, 2**63 - 1, 1e308, 5e-324, "", "x", "\u202e\x1b[2J", "\x00", [], {}, [[]],
    {"": None}, "A/F0#0", "A/F\u0663#0", "../../x",
)  # fmt: skip
_SIGNS = ("\ufeff", "\u2028", "\x00", "\x1b[31m", "\ud7ff", "\U0001f600", "\u0663", "\u00a0", "\\ud800")
_TAGS = (
    "!!python/object/apply:os.system ['true']", "!!bool 7", "!!int ''", "!!float x", "!!timestamp x", "!!binary x",
    "!!set {a}", "!!omap [a]", "!unknown x", "!!null x", "<<: 1", "&a 1", "*a", "? [a]\n: b", "0b", "1:2:3",
    "2024-13-45",
)  # fmt: skip


def flip_bytes(data: bytes, rng: Random) -> bytes:
    """Flip some bits."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def truncate(data: bytes, rng: Random) -> bytes:
    """Cut the end off."""
    return data[: rng.randrange(len(data))]


def repeat_slice(data: bytes, rng: Random) -> bytes:
    """Write a piece many times over."""
    start = rng.randrange(len(data))
    end = start + rng.randint(1, 200)
    return data[:end] + data[start:end] * rng.randint(1, 50) + data[end:]


def drop_line(data: bytes, rng: Random) -> bytes:
    """Leave a line out."""
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def swap_lines(data: bytes, rng: Random) -> bytes:
    """Shuffle the lines."""
    lines = data.splitlines(keepends=True)
    rng.shuffle(lines)
    return b"".join(lines)


def nest_deeply(data: bytes, rng: Random) -> bytes:
    """Open brackets, and never close them."""
    depth = rng.choice((40, 300, 2000, 100_000))
    return _insert(data, rng, rng.choice((b"[", b'{"a":', b"- ")) * depth)


def spoil_number(data: bytes, rng: Random) -> bytes:
    """Write something else in a number's place."""
    found = list(re.finditer(rb"(?<![\w.])\d+(\.\d+)?(?![\w.])", data))
    if not found:
        return data + rng.choice(_NUMBERS).encode()
    place = rng.choice(found)
    return data[: place.start()] + rng.choice(_NUMBERS).encode() + data[place.end() :]


def change_number(data: bytes, rng: Random) -> bytes:
    """Scale a number so that the file may well stay valid, and say something odd."""
    found = list(re.finditer(rb"(?<![\w.#/])\d+(\.\d+)?(?![\w.])", data))
    if not found:
        return data
    place = rng.choice(found)
    number = (int if place.group(1) is None else float)(place.group())
    changed = json.dumps(type(number)(number * rng.choice((0, 0.1, 0.5, 2, 3, 10, 50))))
    return data[: place.start()] + changed.encode() + data[place.end() :]


def change_version(data: bytes, rng: Random) -> bytes:
    """State another version."""
    version = rng.choice((b"0", b"2", b'"1"', b"-1", b"1.5", b"null", b"99999999999999999999"))
    return re.sub(rb'("?version"?\s*:\s*)1', rb"\g<1>" + version, data, count=1)


def insert_sign(data: bytes, rng: Random) -> bytes:
    """Put a sign somewhere that few expect."""
    return _insert(data, rng, rng.choice(_SIGNS).encode("utf-8", "surrogatepass"))


def insert_tag(data: bytes, rng: Random) -> bytes:
    """Put YAML's special forms behind a colon, or anywhere."""
    colons = [match.end() for match in re.finditer(rb": ", data)]
    at = rng.choice(colons) if colons and rng.random() < 0.8 else rng.randrange(len(data))
    return data[:at] + rng.choice(_TAGS).encode() + b" " + data[at:]


def alias_bomb(data: bytes, rng: Random) -> bytes:
    """Put YAML before it that would grow to 2**40 items."""
    lines = [b"a0: &a0 [x, x]"] + [b"a%d: &a%d [*a%d, *a%d]" % (i, i, i - 1, i - 1) for i in range(1, 40)]
    return b"\n".join(lines) + b"\n" + data


def repeat_key(data: bytes, rng: Random) -> bytes:
    """Give an object one of its fields twice, with another value."""
    found = list(re.finditer(rb'"(\w+)":', data)) or list(re.finditer(rb"(\w+):", data))
    if not found:
        return data * 2
    place = rng.choice(found)
    return data[: place.start()] + place.group(0) + b" 1, " + data[place.start() :]


def replace_value(data: bytes, rng: Random) -> bytes:
    """Put a value of another type somewhere into the tree; of JSON lines, into one line."""
    lines = data.splitlines()
    chosen = rng.randrange(len(lines))
    for low, high in ((0, len(lines)), (chosen, chosen + 1)):
        try:
            tree = json.loads(b"\n".join(lines[low:high]))
        except ValueError:
            continue
        return b"\n".join([*lines[:low], json.dumps(_spoilt(tree, rng)).encode(), *lines[high:]]) + b"\n"
    return spoil_number(data, rng)


def nothing(data: bytes, rng: Random) -> bytes:
    """Replace all by nothing, or by something else altogether."""
    return rng.choice(
        (b"", b"\n", b"null", b"{}", b"[]", b"\xff\xfe", b"\x80\x04N.", b"PK\x03\x04", rng.randbytes(300))
    )


MUTATIONS: tuple[Mutation, ...] = (
    flip_bytes, truncate, repeat_slice, drop_line, swap_lines, nest_deeply, spoil_number, change_version, insert_sign,
    insert_tag, alias_bomb, repeat_key, replace_value, nothing,
)  # fmt: skip


def mutate(data: bytes, rng: Random) -> bytes:
    """Apply one to three random mutations; or, a third of the time, one that may leave the file valid."""
    if rng.random() < 0.33:
        return change_number(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(MUTATIONS)(data, rng) if data else b""
    return data


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


# What may lie where a file is expected.
IMPOSTORS: dict[str, Callable[[Path], None]] = {
    "folder": _folder,
    "pipe": os.mkfifo,
    "link to itself": _loop,
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "a terabyte": _sparse,
    **{device: lambda path, device=device: path.symlink_to(device) for device in  # type: ignore[misc]
       ("/dev/zero", "/dev/null", "/dev/full", "/dev/urandom", "/dev/tty", "/proc/self/mem", "/proc/kmsg")},
}  # fmt: skip


def _insert(data: bytes, rng: Random, piece: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + piece + data[at:]


def _spoilt(tree: Any, rng: Random) -> Any:
    """Walk down a random path and replace, remove or add something there."""
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        key = rng.choice(sorted(tree))
        what = rng.random()
        if what < 0.1:
            return {other: value for other, value in tree.items() if other != key}
        if what < 0.2:
            return tree | {rng.choice(("extra", "\x1b[2J", "")): 1}
        return tree | {key: _spoilt(tree[key], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.9:
        at = rng.randrange(len(tree))
        return [*tree[:at], _spoilt(tree[at], rng), *tree[at + 1 :]]
    return rng.choice(_VALUES)
