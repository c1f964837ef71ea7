"""The arena: where blocks go, what they evict, and what their range's former owners still do there."""

from __future__ import annotations

import pytest

from hydrasim.dataflow import BlockKey
from hydrasim.memory import Arena, Block, Segment

# Arenas are drawn in units of 64 bytes: a lower-case letter is a live block, a capital a retired one.


def key(name: str) -> BlockKey:
    return BlockKey("w", name, 0, -1)


def put(arena: Arena, name: str, offset: int, count: int = 1, **fields: object) -> Block:
    block = arena.place(key(name), count * 64, offset * 64)
    block.valid_bytes = block.nbytes
    for field, value in fields.items():
        setattr(block, field, value)
    return block


def chosen(arena: Arena, count: int, *pinned: str, **options: object) -> tuple[int, str] | None:
    choice = arena.choose(count * 64, set(map(key, pinned)), **options)  # type: ignore[arg-type]
    return None if choice is None else (choice[0] // 64, "".join(victim.key.job for victim in choice[1]))


def test_capacity_is_whole_alignment_units_so_that_the_high_end_is_aligned():
    arena = Arena(4 * 64 + 7)
    assert arena.capacity == 256
    assert chosen(arena, 1, low=False) == (3, "")


def test_large_blocks_start_low_and_small_ones_high():
    arena = Arena(256)
    assert chosen(arena, 1, low=True) == (0, "")
    assert chosen(arena, 1, low=False) == (3, "")


def test_a_hole_that_fits_is_preferred_to_an_eviction():
    arena = Arena(256)
    put(arena, "a", 0)
    put(arena, "b", 2)  # a.b.
    assert chosen(arena, 1) == (1, "")
    assert chosen(arena, 2, low=True) == (0, "a")


def test_the_least_recently_used_block_is_evicted():
    arena = Arena(192)
    for name, offset, last_use in (("a", 0, 5), ("b", 1, 3), ("c", 2, 4)):
        put(arena, name, offset, last_use=last_use)
    assert chosen(arena, 1) == (1, "b")


def test_under_a_plan_the_block_whose_next_use_is_farthest_is_evicted():
    arena = Arena(192)
    for name, offset, next_use in (("a", 0, 7), ("b", 1, 9), ("c", 2, 8)):
        put(arena, name, offset, last_use=offset, next_use=next_use)
    assert chosen(arena, 1) == (1, "b")


def test_what_is_lost_is_ranked_by_its_dearest_block():
    arena = Arena(256)
    for name, offset, last_use in (("a", 0, 1), ("b", 1, 9), ("c", 2, 3), ("d", 3, 4)):
        put(arena, name, offset, last_use=last_use)
    assert chosen(arena, 2) == (2, "cd")


def test_pinned_blocks_are_never_evicted():
    arena = Arena(192)
    put(arena, "a", 1)  # .a.
    assert chosen(arena, 2, "a") is None
    assert chosen(arena, 1, "a") == (0, "")


def test_a_block_larger_than_the_arena_finds_no_place():
    assert chosen(Arena(128), 3) is None


def test_a_range_that_the_unit_before_still_uses_comes_last():
    arena = Arena(192)
    put(arena, "a", 0, last_use=9, last_compute=5)
    put(arena, "b", 1, last_use=1, last_compute=9)
    put(arena, "c", 2, last_use=5, last_compute=5)
    assert chosen(arena, 1, previous=9) == (2, "c")  # b is older, but command 9 may still run


def test_a_place_on_a_live_block_is_a_bug():
    arena = Arena(128)
    put(arena, "a", 0, 2)
    with pytest.raises(AssertionError, match="B/w0 would overlap a/w0"):
        arena.place(key("B"), 64, 64)


def test_fresh_memory_has_nothing_to_wait_for():
    assert Arena(128).place(key("a"), 128, 0).segments == [Segment(0, 128, frozenset())]


def test_a_new_owner_waits_for_the_guards_and_the_store_of_the_old_one():
    arena = Arena(64)
    arena.retire(put(arena, "a", 0, last_compute=3, last_store=5))
    assert arena.place(key("b"), 64, 0).segments == [Segment(0, 64, frozenset({3, 5}))]


def test_segments_tell_parts_with_different_owners_apart():
    # A A B .     A retired with guard 1, B with guard 2
    # . n n n     n spans half of A, all of B, and fresh memory
    arena = Arena(256)
    arena.retire(put(arena, "A", 0, 2, last_compute=1))
    arena.retire(put(arena, "B", 2, last_compute=2))
    segments = arena.place(key("n"), 192, 64).segments
    assert segments == [
        Segment(0, 64, frozenset({1})),
        Segment(64, 128, frozenset({2})),
        Segment(128, 192, frozenset()),
    ]


def test_neighbours_with_the_same_guards_are_one_segment():
    arena = Arena(128)
    for name, offset in (("A", 0), ("B", 1)):
        arena.retire(put(arena, name, offset, last_compute=1))
    assert arena.place(key("n"), 128, 0).segments == [Segment(0, 128, frozenset({1}))]


def test_the_rest_of_a_retired_range_keeps_its_guards():
    # A A A       then  . n .  and n retires: the outer thirds still wait for 1, the middle for 2
    arena = Arena(192)
    arena.retire(put(arena, "A", 0, 3, last_compute=1))
    arena.retire(put(arena, "n", 1, last_compute=2))
    segments = arena.place(key("m"), 192, 0).segments
    assert [sorted(segment.guards) for segment in segments] == [[1], [2], [1]]


def test_bytes_never_written_go_on_waiting_for_the_former_owner():
    # A A         A retired with guard 1
    # p -         p loads only its first unit (guard 2) and retires: the second one still belongs to 1
    arena = Arena(128)
    arena.retire(put(arena, "A", 0, 2, last_compute=1))
    prefix = put(arena, "p", 0, 2, last_compute=2, valid_bytes=64)
    assert prefix.unwritten(128) == [Segment(64, 128, frozenset({1}))]
    assert prefix.unwritten(64) == []
    arena.retire(prefix)
    assert arena.place(key("n"), 128, 0).segments == [Segment(0, 128, frozenset({1, 2}))]


def test_missing_bytes_are_joined_to_early_and_late_runs_and_early_ones_come_first():
    # A B C D     retired with guards 9, 1, 2 and 9; command 9 is of the unit before
    # n n n n     n may write its middle early, its ends late
    arena = Arena(256)
    for name, offset, guard in (("A", 0, 9), ("B", 1, 1), ("C", 2, 2), ("D", 3, 9)):
        arena.retire(put(arena, name, offset, last_compute=guard))
    block = arena.place(key("n"), 256, 0)
    late = frozenset({9})
    assert block.runs(256, 9) == [Segment(64, 192, frozenset({1, 2})), Segment(0, 64, late), Segment(192, 256, late)]
    assert block.runs(128, 9) == [Segment(64, 128, frozenset({1})), Segment(0, 64, late)]


def test_used_and_peak_bytes_count_live_blocks():
    arena = Arena(256)
    first = put(arena, "a", 0, 2)
    put(arena, "b", 2)
    arena.retire(first)
    assert (arena.used_bytes, arena.peak_bytes) == (64, 192)
