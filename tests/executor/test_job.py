"""Jobs are checked when they are stated, and their optimizers shared out among shards as they are."""

from __future__ import annotations

import pickle
import sys

import cloudpickle
import pytest
import torch
from torch import nn
from torch.nn import functional

from executor.errors import JobError
from executor.layout import parameters_of
from executor.pickling import dump_without_weights, load_without_weights
from tests.executor.worlds import pairs, perceptron, small_job


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a b"}, "job name 'a b'"),
        ({"dataloader": iter(pairs(1))}, "must have a length"),
        ({"dataloader": []}, "at least one mini-batch"),
        ({"epochs": 0}, "at least 1"),
        ({"epochs": 1.5}, "epochs is 1.5; it must be a whole number"),
        ({"epochs": "2"}, "epochs is '2'; it must be a whole number"),
        ({"max_steps": float("nan")}, "max_steps is nan; it must be a whole number"),
        ({"seed": "x"}, "seed is 'x'; it must be a whole number"),
        ({"seed": 1 << 64}, "seed is 18446744073709551616; it must be from"),
        ({"cuts": "1"}, "cuts '1' must be indices of layers"),
        ({"name": None}, "job name None is no text"),
        ({"max_steps": 0}, "at least 1"),
        ({"model": nn.Linear(4, 2)}, "Linear: it has no parts with parameters to make layers of"),
        ({"model": nn.Sequential(nn.Tanh())}, "has no parameters"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(JobError, match=message):
        small_job(**fields)


@pytest.mark.parametrize("optimizer", [None, lambda parameters: 1 / 0, lambda parameters: sys.exit(3)])
def test_an_optimizer_that_cannot_be_made_is_told(optimizer):
    with pytest.raises(JobError, match="its optimizer could not be made: (TypeError|ZeroDivisionError|SystemExit)"):
        _ = small_job(optimizer=optimizer).whole_optimizer


def test_a_layer_used_twice_counts_twice():
    # The second use was once left out, and another model trained than the user's.
    tanh = nn.Tanh()
    model = nn.Sequential(nn.Linear(4, 4), tanh, nn.Linear(4, 2), tanh)
    assert small_job(model=model).layers == tuple(model)


@pytest.mark.parametrize("cuts", [(0,), (3,), (2, 1), (1, 1)])
def test_impossible_cuts_are_refused(cuts):
    job = small_job(model=perceptron(4, 4, 4, 2))
    with pytest.raises(JobError, match=r"must increase and lie between 1 and 2"):
        job.shards(cuts)


def test_a_list_of_layers_is_a_model():
    layers = list(perceptron(4, 8, 2))
    job = small_job(model=layers)
    assert job.shards((1,)) == [(layers[0],), (layers[1],)]
    assert list(job.module.parameters()) == [p for layer in layers for p in layer.parameters()]


def test_a_job_says_how_long_it_is():
    lengths = {"minibatches": 3, "epochs": 2, "max_minibatches": None, "evaluation_minibatches": 0}
    assert small_job(steps=3, epochs=2).lengths == lengths
    assert small_job(steps=3, epochs=2, max_steps=4).lengths == lengths | {"max_minibatches": 4}
    assert small_job(steps=3, epochs=2, max_steps=9).lengths == lengths | {"max_minibatches": 6}
    assert small_job(steps=3, epochs=2, evaluate_on=pairs(2)).lengths == lengths | {"evaluation_minibatches": 2}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metric": functional.mse_loss}, "has a metric, and no evaluate_on"),
        ({"evaluate_on": []}, "evaluate_on must have a length of at least one"),
        ({"evaluate_on": iter(pairs(1))}, "evaluate_on must have a length of at least one"),
    ],
)
def test_evaluations_that_cannot_be_are_refused(fields, message):
    with pytest.raises(JobError, match=message):
        small_job(**fields)


def test_the_metric_is_the_loss_unless_there_is_one():
    assert small_job(evaluate_on=pairs(1)).metric_fn is functional.mse_loss
    assert small_job(evaluate_on=pairs(1), metric=functional.l1_loss).metric_fn is functional.l1_loss


def shard_optimizers(job, cuts=(1,)):
    """Return the optimizers that workers would make, over parameters without weights."""
    made = []
    for layers in job.shards(cuts):
        mine = parameters_of(layers)
        (there, recipe), _ = load_without_weights(dump_without_weights((list(layers), job.recipe(mine)), mine))
        made.append((parameters_of(there), recipe.make(parameters_of(there))))
    return made


def groups(parameters, optimizer):
    """Return each group's parameters by their place in the shard."""
    place = {id(parameter): index for index, parameter in enumerate(parameters)}
    return [[place[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


def test_groups_are_those_of_the_whole_model():
    # A callable that sorts parameters by dimension or place once saw empty, one-dimensional stand-ins of
    # one shard, and put them all into the wrong group.
    def make(parameters):
        parameters = list(parameters)
        matrices = [p for p in parameters[:-2] if p.ndim == 2]
        return torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.5}, {"params": [p for p in parameters if p.ndim == 1]},
             {"params": parameters[-2:-1], "lr": 0.25}]
        )  # fmt: skip

    first, second = shard_optimizers(small_job(optimizer=make))
    assert groups(*first) == [[0], [1], []]
    assert groups(*second) == [[], [1], [0]]
    assert [group["weight_decay"] for group in first[1].param_groups] == [0.5, 0.01, 0.01]
    assert second[1].param_groups[2]["lr"] == 0.25


class Scaled(torch.optim.SGD):
    """Its constructor wants what no group holds."""

    def __init__(self, parameters, scale):
        super().__init__(parameters, lr=0.1)
        self.scale = scale

    def __getstate__(self):
        return super().__getstate__() | {"scale": self.scale}


def test_what_the_constructor_was_given_travels_along():
    job = small_job()
    instance = Scaled(job.module.parameters(), scale=3)
    for _, optimizer in shard_optimizers(small_job(model=job.model, optimizer=instance)):
        assert (type(optimizer).__name__, optimizer.scale) == ("Scaled", 3)


def test_a_shard_without_the_optimizers_parameters_has_none():
    job = small_job(model=perceptron(4, 8, 2))
    job = small_job(model=job.model, optimizer=torch.optim.SGD(job.model[1].parameters(), lr=0.1))
    assert [optimizer is None for _, optimizer in shard_optimizers(job)] == [True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [(torch.optim.LBFGS, "LBFGS reruns the model"), (list, "made a list, which is no optimizer")],
)
def test_an_unsupported_optimizer_is_refused_as_callable_and_as_instance(make, message):
    with pytest.raises(JobError, match=message):
        small_job(optimizer=make).recipe([])
    if make is torch.optim.LBFGS:
        job = small_job()
        with pytest.raises(JobError, match=message):
            small_job(optimizer=make(job.module.parameters())).recipe([])


def test_a_learning_rate_scheduler_is_refused_rather_than_ignored():
    job = small_job()
    optimizer = torch.optim.SGD(job.module.parameters(), lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(JobError, match="scheduler"):
        small_job(model=job.model, optimizer=optimizer).recipe([])


def test_a_model_travels_without_its_weights():
    model = perceptron(64, 64)
    parameters = list(model.parameters())
    parameters[1].requires_grad_(False)
    data = dump_without_weights(model, parameters)
    assert len(data) < len(pickle.dumps(parameters)) / 4
    back, empty = load_without_weights(data)
    assert [p.numel() for p in empty] == [0, 0]
    assert [p.requires_grad for p in empty] == [True, False]
    assert list(back.parameters()) == empty
    assert cloudpickle.loads(cloudpickle.dumps(model))[0][0].weight.numel() == 64 * 64  # unlike a plain pickle
