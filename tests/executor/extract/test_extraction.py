"""Unmodified modules become chains that compute the same bits, or are refused with a way out."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from executor import CpuDevice, TorchJob, randomness, train
from executor.compare_state import identical
from executor.extract import ExtractionError, Keywords, called_with, chain_of, extractor, layers_of
from executor.pickling import check_references, dump_without_weights
from executor.reference import train_plain
from experiments.extraction_models import Case, cases
from tests.executor.extract import models

CASES = dict(cases())


def batch(seed: int = 0) -> torch.Tensor:
    return torch.randn(5, models.WIDTH, generator=torch.Generator().manual_seed(seed))


def chain_for(case: Case) -> tuple[nn.Module, list[nn.Module]]:
    inputs, target = case.batches[0]
    model = called_with(case.model.train(), inputs)
    return model, layers_of(model, inputs, case.loss_fn, target)


@pytest.fixture(autouse=True)
def _seeded():
    randomness.seed_all(0)


@pytest.mark.parametrize("name", CASES)
def test_public_classes_are_proven(name):
    case = CASES[name]()
    model, layers = chain_for(case)
    assert len(layers) > 3
    assert {id(p) for layer in layers for p in layer.parameters()} <= {id(p) for p in model.parameters()}


def test_public_classes_of_several_families_train_together_to_the_same_bits():
    jobs, pairs = [], []
    for name in ("llama", "bert_classification", "vit", "vgg11"):
        case = CASES[name]()
        model, layers = chain_for(case)
        pairs.append((model, copy.deepcopy(model)))
        cuts = tuple(range(1, len(layers), 2))
        jobs.append(TorchJob(name, layers, case.loss_fn, case.batches, lambda p: torch.optim.SGD(p, lr=0.1), cuts=cuts))
    result = train(jobs, [CpuDevice(1 << 24), CpuDevice(1 << 24)])
    for job, (model, plain) in zip(jobs, pairs, strict=True):
        losses, _ = train_plain(plain, job.loss_fn, job.dataloader, job.optimizer)
        assert list(result.jobs[job.name].losses) == losses
        assert identical(model.state_dict(), plain.state_dict()) == []


@pytest.mark.parametrize(
    "kind", [models.Stack, models.Glue, models.InPlace, models.Normed, models.Caches, models.Peeks]
)
def test_modules_that_do_odd_things_outside_of_their_blocks_are_proven(kind):
    assert len(layers_of(kind(), batch())) == 5


def test_parts_that_stay_together_are_told(caplog):
    layers = layers_of(models.Residual(), batch())
    assert [layer.extra_repr() for layer in layers] == ["entry", "blocks.0, blocks.1, blocks.2, head"]
    assert "some parts of Residual stay in one layer, however large" in caplog.text


def test_tied_weights_and_repeated_blocks_stay_the_same_objects():
    model = models.Tied()
    layers = layers_of(model, torch.tensor([[1, 2, 3]]))
    assert [layer.extra_repr() for layer in layers] == ["embedding", "blocks.0", "blocks.1", "blocks.0"]
    weight = model.embedding.weight
    assert [any(p is weight for p in layer.parameters()) for layer in layers] == [True, False, False, True]
    assert {id(p) for p in layers[1].parameters()} <= {id(p) for p in layers[3].parameters()}


def test_later_batches_may_take_other_branches_and_shapes():
    model = models.Masked()
    first = {"x": batch(), "mask": torch.ones(5, dtype=torch.bool)}
    layers = layers_of(called_with(model, first), first)
    for mask in ([1, 0, 1], [1, 1, 1]):
        later = {"x": batch()[:3], "mask": torch.tensor(mask, dtype=torch.bool)}
        torch.manual_seed(3)
        expected = model(**later)
        torch.manual_seed(3)
        value = later
        for layer in layers:
            value = layer(value)
        assert torch.equal(value, expected)


def test_layers_change_between_training_and_evaluation_as_modules_do():
    model = models.Glue()
    layers = layers_of(model, batch())
    value = batch()
    for layer in layers:
        value = layer.eval()(value)
    assert torch.equal(value, model.eval()(batch()))


def test_a_forward_of_an_instance_is_used_and_does_not_take_the_block_along():
    model = models.Stack()
    model.blocks[1].forward = functools.partial(models.Block.forward, model.blocks[1])
    layers = layers_of(model, batch())
    job = TorchJob("A", layers, nn.functional.mse_loss, [(batch(), batch())], lambda p: torch.optim.SGD(p, lr=0.1))
    check_references(job)


def test_a_layer_holds_its_own_weights_only():
    case = CASES["gpt2"]()
    _, layers = chain_for(case)
    job = TorchJob("A", layers[:-1], case.loss_fn, case.batches, lambda p: torch.optim.SGD(p, lr=0.1))
    check_references(job)
    sizes = [len(dump_without_weights(layer, list(layer.parameters()))) for layer in layers]
    assert max(sizes) < 25_000
    assert [sum(p.numel() for p in layer.parameters()) for layer in layers[1:3]] == [3280, 3280]


def test_random_state_gradients_buffers_and_attributes_are_as_before():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), models.Caches())
    model[0].weight.grad = gradient = torch.ones(4, 4)
    before, buffers = randomness.save(), copy.deepcopy(dict(model.named_buffers()))
    layers_of(model, batch())
    assert randomness.save() == before
    assert identical(dict(model.named_buffers()), buffers) == []
    assert model[2].cache is None
    assert model[0].weight.grad is gradient
    assert torch.equal(gradient, torch.ones(4, 4))
    assert all(parameter.grad is None for parameter in list(model.parameters())[1:])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (models.EarlyExit, r"EarlyExit: its forward decides by a value that its parts computed"),
        (models.Counts, r"Counts: the forward changes blocks.1.num_calls; layers run several times"),
        (models.Unrepeatable, r"Unrepeatable: two runs .* differ in outputs ; make it deterministic"),
        (models.HandsOnObjects, r"boxes returns a SimpleNamespace, which cannot be handed from layer to layer"),
        (models.LayerDrop, r"LayerDrop: which of its parts run depends on chance"),
        (models.Masked, r"Masked could not be taken apart: TypeError: .*missing 1 required .* See that it runs"),
        (models.Inseparable, r"Inseparable: its parts cannot be separated: .*a residual connection around a part"),
        (models.Hidden, r"Hidden: its forward calls none of its parts; if it is compiled"),
        (models.Bare, r"Bare: it has no parts with parameters"),
        (nn.Identity, r"Identity: nothing that it returns has a gradient"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_layers_cannot_do_is_refused(kind, message):
    model, before = kind(), randomness.save()
    with pytest.raises(ExtractionError, match=message):
        layers_of(model, batch())
    assert randomness.save() == before


def test_other_blocks_on_a_later_batch_stop_the_run():
    layers = layers_of(models.Skips(), batch().abs().neg())
    with pytest.raises(RuntimeError, match=r"called blocks.1 where it called blocks.0 on the batch it was extracted"):
        layers[1](layers[0](batch().abs()))


def test_a_registered_extractor_is_used_and_proven():
    class Mine(models.Stack):
        pass

    class Wrong(Mine):
        pass

    @extractor(Mine)
    def halves(model: nn.Module) -> list[nn.Module]:
        return [nn.Sequential(model.entry, *model.blocks), model.head]

    assert len(layers_of(Mine(), batch())) == 2
    extractor(Wrong)(lambda model: [model.entry, model.head])
    with pytest.raises(ExtractionError, match=r"Wrong: the chain of 2 layers, run as one shard, differs .* outputs"):
        layers_of(Wrong(), batch())


def test_chains_stay_as_they_are_and_other_modules_are_extracted():
    chain = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    pair = batch(), torch.zeros(5, 2)
    assert chain_of(chain, pair, nn.functional.mse_loss) == list(chain)
    assert chain_of(list(chain), pair, nn.functional.mse_loss) == list(chain)
    assert len(chain_of(models.Stack(), pair, nn.functional.mse_loss)) == 5


def test_a_dict_is_given_by_keyword_where_the_forward_has_these_names():
    model = models.Masked()
    assert isinstance(called_with(model, {"x": 1, "mask": 2}), Keywords)
    assert called_with(model, {"x": 1, "other": 2}) is model
    assert called_with(model, batch()) is model
    assert called_with(models.Stack(), {"mask": 2}).__class__ is models.Stack


def test_hooks_run_and_those_that_a_forward_installs_do_not_stay_behind():
    stack = models.Stack()
    stack.blocks[0].register_forward_hook(lambda module, args, output: output * 2)
    assert len(layers_of(stack, batch())) == 5
    case = CASES["gpt2"]()
    case.model.config.output_hidden_states = True  # transformers installs hooks in the first forward then
    assert len(chain_for(case)[1]) == 5
    assert not any(module._forward_hooks for module in case.model.modules())


def test_importing_the_extractor_leaves_transformers_alone():
    import subprocess
    import sys

    program = "import sys, executor.extract; print('transformers' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "False\n"
    )
