"""When layers are gathered, by rules small enough to follow by hand."""

from __future__ import annotations

import pytest

from hydrasim.systems.sharded import Use, activation_bytes, gathering, piece
from hydrasim.workload import Phase, Shard, TrainingJob

F, B = Phase.FORWARD, Phase.BACKWARD


def one_ahead(uses: int, *_: int) -> bool:
    return uses <= 1


def test_one_ahead_and_the_last_layer_kept():
    uses, peak_bytes = gathering([1, 2, 4], one_ahead, lambda shard: shard == 2)
    assert uses == [
        Use(F, 0, (0, 1)), Use(F, 1, (2,)), Use(F, 2, ()), Use(B, 2, (1,)), Use(B, 1, (0,)), Use(B, 0, ()),
    ]  # fmt: skip
    assert peak_bytes == 2 + 4


def test_none_ahead_and_none_kept_gathers_for_every_use():
    uses, peak_bytes = gathering([1, 2, 4], lambda *_: False, lambda _: False)
    assert [use.gathers for use in uses] == [(0,), (1,), (2,), (2,), (1,), (0,)]
    assert peak_bytes == 4


def test_what_stays_is_gathered_once():
    uses, peak_bytes = gathering([1, 2, 4], one_ahead, lambda shard: shard > 0)
    assert [use.gathers for use in uses] == [(0, 1), (2,), (), (), (0,), ()]
    assert peak_bytes == 2 + 4 + 0


def test_a_prefetch_that_comes_across_a_layer_keeps_it():
    uses, peak_bytes = gathering([1, 2, 4], lambda uses, *_: uses <= 3, lambda _: False)
    # while layer 1 computes, the window reaches over 2, there and back, to 1 itself
    assert [use.gathers for use in uses] == [(0, 1, 2), (), (0,), (), (), ()]
    assert peak_bytes == 7


def test_rules_see_the_bytes_ahead_and_those_there():
    seen: list[tuple[int, int, int]] = []

    def note(uses: int, ahead_bytes: int, here_bytes: int) -> bool:
        seen.append((uses, ahead_bytes, here_bytes))
        return ahead_bytes < 2

    gathering([1, 2, 4], note, lambda _: True)
    assert seen[:3] == [(1, 0, 1), (2, 2, 3), (1, 0, 3)]


def test_a_model_of_one_layer_is_gathered_once():
    assert gathering([8], one_ahead, lambda _: True) == ([Use(F, 0, (0,)), Use(B, 0, ())], 8)


def test_pieces_are_padded():
    assert [piece(nbytes, 3) for nbytes in (0, 1, 3, 4)] == [0, 1, 1, 2]


@pytest.mark.parametrize(("recompute", "left"), [(True, 8), (False, 32)])
def test_a_rank_keeps_its_part_of_what_forwards_leave(recompute: bool, left: int):
    shard = Shard(1.0, 1.0, output_bytes=4, working_bytes=64, activation_bytes=16)
    job = TrainingJob("A", (shard, shard), 1, input_bytes=6, target_bytes=2)
    assert activation_bytes(job, 2, recompute=recompute) == (8 + left + 64) // 2
