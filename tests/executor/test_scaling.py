"""Losses scaled for fp16: the scale moves as torch's scaler moves it, and training is the plain loop's to the bit."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest
import torch
from torch.nn import functional

from executor import train
from executor.scaling import LossScaling, unscale
from tests.executor.worlds import DATA, differences, expected, small_job, transformer


def scaler(**settings: float) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", **({"init_scale": 2.0**27, "growth_interval": 2} | settings))


def test_the_scale_moves_as_torchs_does():
    theirs, parameter, random = scaler(), torch.nn.Parameter(torch.zeros(1)), Random(0)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    ours = LossScaling.of(theirs)
    scale = ours.first
    for _ in range(40):
        has_inf = random.random() < 0.3
        theirs.scale(torch.zeros(()))  # a scaler makes its tensors when it is first used
        parameter.grad = torch.tensor([float("inf") if has_inf else 1.0])
        theirs.step(optimizer)
        theirs.update()
        scale = ours.after(scale, has_inf)
        assert (scale.value, scale.skips) == (theirs.get_scale(), has_inf)


def test_gradients_are_unscaled_as_torchs_scaler_does():
    values = torch.tensor([3.0, 1e-30, 7e20])
    mine = [values.clone(), values.clone() / 3]
    theirs, parameters = scaler(init_scale=3e7), [torch.nn.Parameter(value.clone()) for value in mine]
    theirs.scale(torch.zeros(()))
    for parameter, gradient in zip(parameters, mine, strict=True):
        parameter.grad = gradient.clone()
    theirs.unscale_(torch.optim.SGD(parameters, lr=0.1))
    assert not unscale(mine, LossScaling.of(theirs).init_scale)
    assert all(torch.equal(own, parameter.grad) for own, parameter in zip(mine, parameters, strict=True))
    assert unscale([torch.ones(2), torch.tensor([1.0, float("nan")])], 2.0)


def test_a_scaler_that_is_switched_off_is_none():
    assert LossScaling.of(None) is None
    assert LossScaling.of(torch.amp.GradScaler("cpu", enabled=False)) is None


OPTIONS = {
    "AdamW": {},
    "SGD with momentum": {"optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9)},
    "clipped": {"clip_norm": 0.1},
    "accumulated": {"accumulate": 2, "clip_norm": 0.5},
    "on the host": {"update_on": "host"},
    "kept": {"activation_mode": "keep"},
    "tied": {},
    "growing": {"grad_scaler": scaler(init_scale=8.0)},
}


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("name", OPTIONS)
def test_training_with_a_scaler_is_the_plain_loops(name, devices, pools):
    def job(label, seed, count):
        model = transformer(20, 0.1, seed)
        if name == "tied":
            model[-1].out.weight = model[0].tokens.weight
        fields = {"optimizer": partial(torch.optim.AdamW, lr=0.01), "grad_scaler": scaler()} | OPTIONS[name]
        return small_job(
            label, model=model, dataloader=DATA["shuffled"](count), cuts=(1, 2, 3, 4), seed=seed, epochs=6,
            loss_fn=functional.cross_entropy, autocast=torch.float16, **fields,
        )  # fmt: skip

    jobs, pool = [job("A", 0, 8), job("B", 1, 4)], pools[devices]
    answers = [expected(job) for job in jobs]
    result = train(jobs, pool.devices, pool=pool, chaos_seed=5)
    assert sum((differences(job, result, answer) for job, answer in zip(jobs, answers, strict=True)), []) == []
    if name == "AdamW":
        steps = {key: value for key, value in answers[0][0].items() if key.endswith(":step")}
        assert 0 < max(steps.values()) < jobs[0].lengths["minibatches"] * jobs[0].epochs, "no step was left out"
    assert jobs[0].grad_scaler.get_scale() in (2.0**27, 8.0)
