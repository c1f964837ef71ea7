"""What happened, span by span; simulated and measured runs share this one schema."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydrasim.command import HOST, Finished, Kind, Lane
from hydrasim.utilization import UtilizationKind, utilization

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1


@dataclass(frozen=True, slots=True)
class Span:
    """A command that happened. Times are seconds since the run began; device -1 is the host.

    issued_s: when the backend got it; start_s: when its lane took it up. cause: number of the command whose
    end made the orchestrator issue this one, -1 for none. live_bytes: for a compute, how much of its device's
    arena held live blocks once its unit was bound. peer: for a send, the device that receives, -1 for none.
    """

    number: int
    kind: str
    device: int
    lane: str
    unit: str
    start_s: float
    end_s: float
    block: str = ""
    nbytes: int = 0
    after: tuple[int, ...] = ()
    eligible: tuple[str, ...] = ()
    issued_s: float = 0.0
    cause: int = -1
    live_bytes: int = 0
    peer: int = HOST

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s

    @property
    def job(self) -> str:
        return self.unit.partition("/")[0]

    @property
    def lane_key(self) -> tuple[int | str, str]:
        """Name the queue that the span stood in, as `Command.lane_key` does."""
        of_job = self.device == HOST and self.lane != Lane.DISK.value
        return (self.job if of_job else self.device), self.lane

    @classmethod
    def of(cls, event: Finished, cause: int = -1) -> Span:
        command = event.command
        return cls(
            command.number,
            command.kind.value,
            command.device,
            command.lane.value,
            str(command.unit),
            event.start_s,
            event.end_s,
            "" if command.block is None else str(command.block),
            command.nbytes,
            command.after,
            tuple(map(str, command.eligible)),
            event.issued_s,
            cause,
            command.live_bytes,
            command.peer,
        )


@dataclass(frozen=True)
class Timeline:
    """All spans of a run, in the order in which they ended, and what run it was.

    header: label (simulated, emulated or measured), policy, effects, num_devices, digests.
    """

    spans: tuple[Span, ...]
    header: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def makespan_s(self) -> float:
        return max((span.end_s for span in self.spans), default=0.0)

    @property
    def num_devices(self) -> int:
        return int(self.header.get("num_devices", 0)) or 1 + max((span.device for span in self.spans), default=0)

    @cached_property
    def by_device(self) -> dict[int, list[Span]]:
        """The spans of every device, and of the host as device -1."""
        found: dict[int, list[Span]] = {device: [] for device in range(HOST, self.num_devices)}
        for span in self.spans:
            found[span.device].append(span)
        return found

    @property
    def moved_bytes(self) -> int:
        """Bytes copied between host and devices, both directions."""
        return self._bytes_of(Kind.LOAD, Kind.STORE)

    @property
    def peer_bytes(self) -> int:
        """Bytes sent from device to device, those of collectives included."""
        return self._bytes_of(Kind.SEND, Kind.GATHER)

    @property
    def disk_bytes(self) -> int:
        """Bytes read from and written to disk."""
        return self._bytes_of(Kind.READ, Kind.WRITE)

    def _bytes_of(self, *kinds: Kind) -> int:
        names = {kind.value for kind in kinds}
        return sum(span.nbytes for span in self.spans if span.kind in names)

    def ready_s(self) -> dict[int, float]:
        """Return by span number when the span could have begun: issued, its lane free, what it follows done."""
        end_s = {span.number: span.end_s for span in self.spans}
        free_s: dict[tuple[int | str, str], float] = {}
        ready: dict[int, float] = {}
        for span in sorted(self.spans, key=lambda span: span.number):
            lane = span.lane_key
            before = [end_s[number] for number in span.after if number in end_s]
            ready[span.number] = max(span.issued_s, free_s.get(lane, 0.0), *before, 0.0)
            free_s[lane] = span.end_s
        return ready

    def dispatch_s(self) -> dict[int, float]:
        """Return by span number how long after the end that caused it the span was issued."""
        end_s = {span.number: span.end_s for span in self.spans}
        return {s.number: max(0.0, s.issued_s - end_s[s.cause]) for s in self.spans if s.cause in end_s}

    def utilization(self, device: int | None = None, kind: UtilizationKind = "compute-busy") -> float:
        """Return a share of the makespan, of one device or averaged over all; see `hydrasim.utilization`."""
        return utilization(self, device, kind)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a span, columns named as the fields of Span."""
        import pandas as pd

        frame: pd.DataFrame = pd.DataFrame(
            [asdict(span) for span in self.spans], columns=list(Span.__dataclass_fields__)
        )
        return frame

    def to_lines(self) -> str:
        """Return the timeline as JSON lines: the header, then one span a line."""
        lines = [json.dumps({"version": VERSION, **self.header}, sort_keys=True)]
        lines += [json.dumps(_compact(span)) for span in self.spans]
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        """Write a file: Parquet if its name ends in .parquet, else JSON lines, packed if it ends in .gz."""
        from hydrasim.timeline_file import write

        write(self, path)

    @classmethod
    def read(cls, path: Path) -> Timeline:
        """Read a file that `write` wrote.

        Raises:
            TimelineError: the file is missing, malformed or of another version.
        """
        from hydrasim.timeline_file import read

        return read(path)


_DEFAULTS: dict[str, Any] = {
    name: field.default for name, field in Span.__dataclass_fields__.items() if field.default is not MISSING
}


def _compact(span: Span) -> dict[str, Any]:
    """Leave out fields that are as by default: most spans have no block, or no alternatives."""
    return {key: value for key, value in asdict(span).items() if key not in _DEFAULTS or value != _DEFAULTS[key]}
