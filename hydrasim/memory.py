"""One device's memory: an address-level allocator whose frees take effect in program order.

Like a stream-ordered allocator, the arena hands out a range as soon as the commands that last use it
have been *issued*: the new owner's commands wait for those (its guards). So where a block lies depends
only on the order of the units bound to the device, never on timing, and memory cannot be overbooked.

    offset 0                                                      capacity
    |  w A/0 (live)  |  x A/1 (live)  |  retired, guards {17, 21}  |  free  |
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

from hydrasim.dataflow import ALIGNMENT, BlockKey

NEVER = -1


@dataclass(slots=True)
class Block:
    """A live range and what is known of its contents.

    valid_bytes: the leading bytes that hold current data. dirty: host memory lacks these contents.
    last_use: bind sequence number of the last unit that used it. next_use: position in the device's
    plan of the next one, when a plan is followed. last_compute, last_store: the newest commands that
    use it, after which the range may be reused. segments: what the range's former owners still do there;
    bytes that were never written since, such as those behind a loaded prefix, go on waiting for that.
    """

    key: BlockKey
    offset: int
    nbytes: int
    valid_bytes: int = 0
    dirty: bool = False
    last_use: int = NEVER
    next_use: int | None = None
    last_compute: int = NEVER
    last_store: int = NEVER
    segments: list[Segment] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.offset + self.nbytes

    def keep_value(self) -> int:
        """Rank for eviction, smallest first: far next use when known, else least recently used."""
        return self.last_use if self.next_use is None else -self.next_use

    def runs(self, need: int, previous: int) -> list[Segment]:
        """Join the missing bytes to runs that may be written early and runs that wait for the `previous` unit."""
        runs: list[Segment] = []
        for start, end, guards in self.unwritten(need):
            late = max(guards, default=NEVER) >= previous
            if runs and late == (max(runs[-1].guards, default=NEVER) >= previous):
                runs[-1] = Segment(runs[-1].start, end, runs[-1].guards | guards)
            else:
                runs.append(Segment(start, end, guards))
        return sorted(runs, key=lambda run: (max(run.guards, default=NEVER) >= previous, run.start))

    def unwritten(self, need: int) -> list[Segment]:
        """Return the guarded segments of the bytes that are still missing from the leading `need`."""
        bounds = [(max(s.start, self.valid_bytes), min(s.end, need), s.guards) for s in self.segments]
        return [Segment(start, end, guards) for start, end, guards in bounds if start < end]


class Segment(NamedTuple):
    """Part of a placed range, from the block's start, and the commands that end before it may be written."""

    start: int
    end: int
    guards: frozenset[int]


class _Retired(NamedTuple):
    """A range that was given up; newest: the last of its guards."""

    offset: int
    end: int
    guards: frozenset[int]
    newest: int


class Arena:
    """Live blocks and retired ranges of one device; offsets are multiples of the alignment."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity // ALIGNMENT * ALIGNMENT
        self.blocks: dict[BlockKey, Block] = {}
        self._live: list[Block] = []  # by offset, and where each starts and ends
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._retired: list[_Retired] = []
        self.used_bytes = self.peak_bytes = 0

    def choose(
        self, nbytes: int, pinned: set[BlockKey], previous: int = NEVER, low: bool = True
    ) -> tuple[int, list[Block]] | None:
        """Return the offset whose contents are cheapest to lose, and the blocks to evict there.

        Prefers ranges that no command from `previous` on still uses (the unit before may still run, and
        waiting for it would lose the overlap), then those without live blocks, then those whose dearest
        block ranks lowest, then the low or the high end: large blocks grow from one side and small ones
        from the other, so holes stay few. None when pinned blocks leave no room.
        """
        live, starts, ends = self._live, self._starts, self._ends
        gaps = [gap for gap in zip([0, *ends], [*starts, self.capacity], strict=True) if gap[1] - gap[0] >= nbytes]
        if gaps:  # the outermost free place is mostly the answer
            outermost = gaps[0][0] if low else gaps[-1][1] - nbytes
            if not self._is_late(outermost, nbytes, previous):
                return outermost, []
        old_starts, old_ends = [old.offset for old in self._retired], [old.end for old in self._retired]
        offsets = {0, self.capacity - nbytes, *ends, *old_starts, *old_ends}
        offsets.update([edge - nbytes for edges in (starts, old_starts, old_ends) for edge in edges])
        num_pinned = [0, *accumulate([block.key in pinned for block in live])]
        num_late, late_starts, late_ends = [0] * len(num_pinned), [], []
        if previous > NEVER:
            num_late = [0, *accumulate([block.last_compute >= previous for block in live])]
            still_read = sorted([(old.offset, old.end) for old in self._retired if old.newest >= previous])
            late_starts, late_ends = [start for start, _ in still_read], [end for _, end in still_read]
        least, best = (True, True), None
        for offset in sorted([one for one in offsets if 0 <= one <= self.capacity - nbytes], reverse=not low):
            end = offset + nbytes
            first, last = bisect_right(ends, offset), bisect_left(starts, end)
            if num_pinned[last] > num_pinned[first]:
                continue
            late = num_late[last] > num_late[first] or bisect_left(late_starts, end) > bisect_right(late_ends, offset)
            if (late, first < last) > least:
                continue
            victims = live[first:last]
            if not victims and not late:
                return offset, victims
            dearest = max([block.keep_value() for block in victims], default=0)
            rank = (late, first < last, dearest, sum([block.nbytes for block in victims]))
            if best is None or rank < best[0]:
                best, least = (rank, offset, victims), rank[:2]
        return None if best is None else best[1:]

    def _is_late(self, offset: int, nbytes: int, previous: int) -> bool:
        """Tell whether a command from `previous` on still uses what was retired there."""
        end = offset + nbytes
        return previous > NEVER and any(
            old.newest >= previous and old.offset < end and offset < old.end for old in self._retired
        )

    def place(self, key: BlockKey, nbytes: int, offset: int) -> Block:
        """Put a block where no live block lies."""
        end = offset + nbytes
        kept: list[_Retired] = []
        covered: list[_Retired] = []
        for retired in self._retired:
            start, stop, guards, newest = retired
            if stop <= offset or end <= start:
                kept.append(retired)
                continue
            covered.append(retired)
            if start < offset:
                kept.append(_Retired(start, offset, guards, newest))
            if stop > end:
                kept.append(_Retired(end, stop, guards, newest))
        self._retired = kept
        block = Block(key, offset, nbytes, segments=_segments(covered, offset, end))
        place = bisect_left(self._ends, offset + 1)  # before it is what ends in time
        for other in self._live[place : place + 1]:
            assert other.offset >= end, f"{key} would overlap {other.key}"
        self._live.insert(place, block)
        self._starts.insert(place, offset)
        self._ends.insert(place, end)
        self.blocks[key] = block
        self.used_bytes += nbytes
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        return block

    def retire(self, block: Block, *, was_filled: bool = True) -> None:
        """Give the range up; whoever gets it next waits for the block's guards.

        was_filled: its valid bytes were written, or will be; else it also waits for what the range's former owners do.
        """
        del self.blocks[block.key]
        place = bisect_left(self._starts, block.offset)
        del self._live[place], self._starts[place], self._ends[place]
        self.used_bytes -= block.nbytes
        uses = [number for number in (block.last_compute, block.last_store) if number != NEVER]
        former = block.unwritten(block.nbytes) if was_filled else block.segments
        guards = frozenset(uses).union(*[segment.guards for segment in former])
        self._retired.append(_Retired(block.offset, block.end, guards, max(guards, default=NEVER)))


def _segments(covered: list[_Retired], offset: int, end: int) -> list[Segment]:
    """Return the parts of a range, from its start, by who has to be done with what it covers."""
    if not covered:
        return [Segment(0, end - offset, frozenset())]
    cuts = {offset, end}
    for retired in covered:
        cuts.update([cut for cut in (retired.offset, retired.end) if offset < cut < end])
    segments: list[Segment] = []
    for start, stop in pairwise(sorted(cuts)):
        guards = frozenset([g for old in covered if old.offset < stop and start < old.end for g in old.guards])
        if segments and segments[-1].guards == guards:
            segments[-1] = Segment(segments[-1].start, stop - offset, guards)
        else:
            segments.append(Segment(start - offset, stop - offset, guards))
    return segments
