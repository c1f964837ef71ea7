"""The engine benchmark: three ways to let the same time pass, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.engine import bare, cases, engine, main
from hydrasim import simulate
from hydrasim.command import Command


@pytest.mark.parametrize("world", ["fig7", "transfers"])
def test_all_three_end_at_the_same_time_where_nothing_is_shared(world: str):
    case = next(case for case in cases(0.05) if case.world == world and case.effects in ("theory", "transfers"))
    commands: list[Command] = []
    timeline = simulate(case.workload, case.cluster, "sharded-lrtf", effects=case.effects, commands=commands)
    seconds = {span.number: span.duration_s for span in timeline.spans}
    told = bare(commands, [seconds[number] for number in range(len(commands))])
    assert told == pytest.approx(engine(case, commands), rel=1e-9)
    assert told <= timeline.makespan_s * (1 + 1e-9)  # every command is there from the start
    if world == "fig7":
        assert told == pytest.approx(timeline.makespan_s, rel=1e-9)


def test_every_size_and_rung_is_in_the_files(tmp_path: Path):
    main(tmp_path, repeats=1, scale=0.02)
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert [(row["world"], row["size"], row["effects"]) for row in rows] == [
        (case.world, case.size, case.effects) for case in cases()
    ]
    assert all(row["peak_bytes"] > 0 and len(row["engine_over_bare"]) == 1 for row in rows)
    assert (tmp_path / "report.md").read_text().count("\n| ") == len(rows) + 1
