"""Timelines as files: JSON lines for any reader, Parquet for data frames; both keep everything."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrasim.command import HOST, Kind
from hydrasim.disk import MAX_FILE_BYTES, read_text, replacing, write_text
from hydrasim.errors import TimelineError, shortened
from hydrasim.timeline import VERSION, Span, Timeline

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PARQUET = ".parquet"
MAX_SPANS = 1 << 22  # of a Parquet file; JSON lines of the greatest size hold about as many
_HEADER = b"hydrasim.timeline"  # key of the header in a Parquet file's metadata
_ON_HOST = {k.value for k in (Kind.FETCH, Kind.READ, Kind.WRITE, Kind.UPDATE, Kind.SAVE, Kind.RESTORE)}


def write(timeline: Timeline, path: Path) -> None:
    """Write a timeline, as Parquet if the file's name ends so, else as JSON lines.

    A Parquet file has one column a field of Span, lists for tuples, and the header in its metadata.

    Raises:
        HydraError: the file cannot be written.
    """
    if path.suffix != PARQUET:
        write_text(path, timeline.to_lines())
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    header = json.dumps({"version": VERSION, **timeline.header}, sort_keys=True)
    columns = {name: [getattr(span, name) for span in timeline.spans] for name in Span.__dataclass_fields__}
    table = pa.Table.from_pydict(columns, _parquet_schema().with_metadata({_HEADER: header}))
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read(path: Path) -> Timeline:
    """Read a timeline and check every field.

    Raises:
        TimelineError: the file is missing, malformed or of another version.
    """
    read_fields, row, first = (_read_parquet, "row", 0) if path.suffix == PARQUET else (_read_lines, "line", 2)
    header, spans = read_fields(path)
    timeline = Timeline(tuple(spans), {name: value for name, value in header.items() if name != "version"})
    for number, span in enumerate(spans, first):
        for name, device, least in (("device", span.device, HOST if span.kind in _ON_HOST else 0),
                                    ("peer", span.peer, HOST)):  # fmt: skip
            if not least <= device < timeline.num_devices:
                raise TimelineError(
                    f"{path}, {row} {number}: {name}: a {span.kind} on device {device}; "
                    f"there are {timeline.num_devices} devices."
                )
    return timeline


def _read_lines(path: Path) -> tuple[dict[str, Any], list[Span]]:
    from hydrasim.files import parse_line
    from hydrasim.schemas import SpanFile, TimelineHeader

    lines = read_text(path, TimelineError).splitlines()
    if not lines:
        raise TimelineError(f"{path} is empty; a timeline starts with a header line.")
    header = parse_line(path, 1, lines[0], TimelineHeader, TimelineError)
    spans = [
        Span(**parse_line(path, number, line, SpanFile, TimelineError).model_dump())
        for number, line in enumerate(lines[1:], 2)
    ]
    return header.model_dump(exclude_unset=True), spans


def _read_parquet(path: Path) -> tuple[dict[str, Any], list[Span]]:
    from pydantic import ValidationError

    from hydrasim.schemas import SpanFile, TimelineHeader

    text, rows = _load_parquet(path)
    where = "header"
    try:
        header = TimelineHeader.model_validate_json(text).model_dump(exclude_unset=True)
        spans = []
        for number, row in enumerate(rows):
            where = f"row {number}"
            spans.append(Span(**SpanFile.model_validate(row).model_dump()))
    except ValidationError as reason:
        found = reason.errors(include_url=False)[0]
        fields = ".".join(map(str, found["loc"]))
        raise TimelineError(shortened(f"{path}, {where}: {fields}: {found['msg']}")) from None
    return header, spans


def _load_parquet(path: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """Return the header's text and the rows; the columns are checked, what they hold is not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_file(path)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_columns(path, file)
            return file.schema_arrow.metadata[_HEADER], file.read().to_pylist()
    except TimelineError:
        raise
    except (OSError, ValueError, pa.ArrowException) as reason:
        line = (getattr(reason, "strerror", None) or str(reason)).partition("\n")[0]
        raise TimelineError(f"cannot read {path}: {shortened(line)}.") from None


def _check_file(path: Path) -> None:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise TimelineError(f"cannot read {path}: it is no regular file; copy what it gives into one.")
    if found.st_size > MAX_FILE_BYTES:
        raise TimelineError(f"{path} holds more than {MAX_FILE_BYTES >> 20} MiB; this is no file of ours.")


def _check_columns(path: Path, file: pq.ParquetFile) -> None:
    """Refuse what is not ours, and what would fill the memory once it is unpacked."""
    found, expected = file.schema_arrow, _parquet_schema()
    for name in dict.fromkeys((*expected.names, *found.names)):
        have, want = (s.field(name).type if s.names.count(name) == 1 else None for s in (found, expected))
        if have != want:
            raise TimelineError(
                f"{path}: column {shortened(name)} is {have or 'missing'}; it must be {want or 'left out'}."
            )
    if _HEADER not in (found.metadata or {}):
        raise TimelineError(f"{path} has no timeline header; write it with `Timeline.write`.")
    # Of a column's own metadata nothing is asked: where those are damaged, pyarrow ends the process.
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    if file.metadata.num_rows > MAX_SPANS or sum(group.total_byte_size for group in groups) > MAX_FILE_BYTES:
        raise TimelineError(f"{path} unpacks to more than {MAX_FILE_BYTES >> 20} MiB; this is no file of ours.")


def _parquet_schema() -> pa.Schema:
    """Return a column for each field of Span, of its type."""
    import pyarrow as pa

    types = {"int": pa.int64(), "float": pa.float64(), "str": pa.string()}
    types |= {"tuple[int, ...]": pa.list_(pa.int64()), "tuple[str, ...]": pa.list_(pa.string())}
    return pa.schema([(name, types[str(field.type)]) for name, field in Span.__dataclass_fields__.items()])
