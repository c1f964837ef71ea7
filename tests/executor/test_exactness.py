"""The promise: weights, optimizer state and losses byte for byte those of the plain loop."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import TorchJob, prepare, train
from hydrasim.mechanism import HYDRA_RELEASED, OURS, PAPER
from tests.executor.conftest import ROOMY_BYTES
from tests.executor.worlds import DATA, differences, expected, transformer

Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, tuple[int, type[torch.optim.Optimizer], dict[str, object]]] = {
    # The width makes the state of all weigh about the same, so that all are as tight on memory.
    "sgd": (32, torch.optim.SGD, {"lr": 0.1}),
    "momentum": (24, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adamw": (20, torch.optim.AdamW, {"lr": 0.01, "foreach": False, "fused": False}),
    "fused adamw": (20, torch.optim.AdamW, {"lr": 0.01, "fused": True}),
}
POLICIES = {
    "sharded-lrtf": ("sharded-lrtf", OURS),
    "resident-lrtf": ("resident-lrtf", OURS),
    "random": ("random", OURS),
    "model-parallel": ("model-parallel", OURS),
    "hydra-released": ("hydra-released", HYDRA_RELEASED),
    "paper": ("sharded-lrtf", PAPER),
}


def cosine_with_warm_up(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.25, total_iters=2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], [2])


CLIPS = {"": {}, "clipped by norm": {"clip_norm": 0.2}, "clipped by value": {"clip_value": 0.01}}
FACTORS: dict[str, list[object]] = {
    "optimizer": list(OPTIMIZERS),
    "dropout": [0.0, 0.1],
    "data": list(DATA),
    "devices": [1, 2],
    "cuts": [(), (2,), (1, 2, 3, 4)],
    "prefetch": [True, False],
    "policy": list(POLICIES),
    "two_groups": [False, True],
    "fused": [True, False],
    "activation_mode": ["auto", "recompute", "keep", "spill"],
    "accumulate": [1, 2],
    "clip": list(CLIPS),
    "scheduled": [False, True],
    "autocast": [None, torch.bfloat16],
    "tied": [False, True],
    "update_on": ["device", "host"],
    "evaluated": [False, True],
}
NUM_SAMPLED = int(os.environ.get("EXACTNESS_CASES", "1000"))  # of 8.8 million combinations, by `make exactness`
Case = tuple[object, ...]


def pairwise() -> Iterator[Case]:
    """Choose few cases that contain every pair of values of any two factors; greedy, always the same ones."""
    random, levels = Random(0), list(FACTORS.values())
    missing = {
        ((i, a), (j, b)) for (i, x), (j, y) in itertools.combinations(enumerate(levels), 2) for a in x for b in y
    }
    while missing:
        seed_pair = min(missing, key=str)
        tried = [_fill(seed_pair, levels, random) for _ in range(200)]
        best = max(tried, key=lambda case: len(_pairs(case) & missing))
        missing -= _pairs(best)
        yield best


def _fill(pair: tuple[tuple[int, object], ...], levels: list[list[object]], random: Random) -> Case:
    fixed = dict(pair)
    return tuple(fixed.get(index, random.choice(values)) for index, values in enumerate(levels))


def _pairs(case: Case) -> set[tuple[tuple[int, object], ...]]:
    return set(itertools.combinations(enumerate(case), 2))


def sample() -> list[Case]:
    random = Random(1)
    return [tuple(map(random.choice, FACTORS.values())) for _ in range(NUM_SAMPLED)]


def name_of(case: Case) -> str:
    """Name the shards by their number, switches by what they switch."""
    optimizer, dropout, data, devices, cuts, prefetch, policy, two_groups, fused, mode, accumulate, *rest = case
    words = [optimizer, f"dropout {dropout}", data, f"{devices} devices", f"{len(cuts) + 1} shards", policy]
    words += [word for on, word in ((prefetch, "prefetch"), (two_groups, "two groups"), (not fused, "unfused")) if on]
    clip, scheduled, autocast, tied, update_on, evaluated = rest
    switches = {"scheduled": scheduled, "tied": tied, "evaluated": evaluated}
    words += [word for word in (mode, clip, autocast, *(name for name, on in switches.items() if on)) if word]
    return ", ".join(map(str, [*words, f"accumulate {accumulate}", f"update on {update_on}"]))


def two_groups(
    module: nn.Module, kind: type[torch.optim.Optimizer], options: dict[str, object]
) -> torch.optim.Optimizer:
    """Make an optimizer instance whose second group, everything but matrices, learns at another rate."""
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    others = [p for p in module.parameters() if p.ndim < 2]
    return kind([{"params": matrices, "weight_decay": 0.1}, {"params": others, "lr": 0.03}], **options)


def make_job(name: str, seed: int, steps: int, case: dict[str, object]) -> TorchJob:
    width, kind, options = OPTIMIZERS[case["optimizer"]]
    model = transformer(width, case["dropout"], seed)
    if case["tied"]:
        model[-1].out.weight = model[0].tokens.weight
    return TorchJob(
        name,
        model,
        functional.cross_entropy,
        DATA[case["data"]](4 if case["evaluated"] else 2 * steps),
        two_groups(model, kind, options) if case["two_groups"] else lambda parameters: kind(parameters, **options),
        epochs=steps if case["evaluated"] else 2,
        evaluate_on=DATA[case["data"]](3) if case["evaluated"] else None,
        max_steps=2 * steps - 1,
        seed=seed,
        cuts=case["cuts"],
        **{name: case[name] for name in ("activation_mode", "accumulate", "autocast")},
        update_on="device" if case["tied"] else case["update_on"],  # what is tied is not updated on the host
        scheduler=cosine_with_warm_up if case["scheduled"] else None,
        **CLIPS[case["clip"]],
    )


def check(case: Case, pools) -> None:
    named = dict(zip(FACTORS, case, strict=True))
    policy, mechanism = POLICIES[named["policy"]]
    jobs = [make_job("A", 1, 2, named), make_job("B", 2, 3, named)]
    separate = jobs[0].step_options.in_units_of_its_own or named["tied"] or named["update_on"] == "host"
    needs_room = separate and len(named["cuts"]) < 2
    pool = pools[named["devices"], ROOMY_BYTES] if needs_room else pools[named["devices"]]
    answers = [expected(job, DATA[named["data"]](len(job.dataloader.dataset))) for job in jobs]
    mechanism = replace(mechanism, prefetch=named["prefetch"])
    zone = mechanism.loading_zone_fraction
    prepared = prepare(jobs, pool.devices, loading_zone_fraction=zone, fused=named["fused"])
    result = train(prepared, policy=policy, mechanism=mechanism, pool=pool, seed=3)
    assert [
        difference for job, answer in zip(jobs, answers, strict=True) for difference in differences(job, result, answer)
    ] == []
    assert result.timeline.moved_bytes > 0


@pytest.mark.parametrize("case", list(pairwise()), ids=name_of)
def test_every_pair_of_choices_trains_byte_for_byte(case, pools):
    check(case, pools)


@pytest.mark.exactness_full
@pytest.mark.parametrize("case", sample(), ids=name_of)
def test_many_combinations_train_byte_for_byte(case, pools):
    check(case, pools)


def test_the_pairwise_cases_hold_every_pair():
    held = set().union(*map(_pairs, pairwise()))
    for (i, a), (j, b) in itertools.combinations(enumerate(FACTORS.values()), 2):
        assert {((i, x), (j, y)) for x in a for y in b} <= held
