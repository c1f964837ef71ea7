"""Weights stream from safetensors files and into others; the bits are those of a model in memory."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from executor import CpuDevice, DevicePool, TorchJob, prepare, train, without_weights
from executor.errors import JobError
from executor.weights import INDEX, Saved, Weights
from tests.executor.worlds import expected, pairs, perceptron, small_job

pytestmark = pytest.mark.usefixtures("one_thread")
WIDTHS = (4, 8, 8, 8, 2)


@pytest.fixture(scope="module")
def pool():
    with DevicePool([CpuDevice(160_000)] * 2) as pool:
        yield pool


def save_sharded(model: nn.Module, folder: Path, num_files: int = 2) -> Path:
    """Write a model as a sharded checkpoint by nothing but safetensors."""
    names = list(model.state_dict())
    files = {name: f"part-{index % num_files}.safetensors" for index, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: model.state_dict()[name] for name in names if files[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


def saved_tensors(folder: Path) -> dict[str, torch.Tensor]:
    files = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
    return {name: tensor for file in files for name, tensor in load_file(folder / file).items()}


def empty(make) -> nn.Module:
    with without_weights():
        return make()


def test_modules_made_meanwhile_hold_no_weights_and_share_them_as_always():
    with without_weights():
        model = nn.Sequential(nn.Embedding(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 5, bias=False))
        model[2].weight = model[0].weight
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model[2].weight is model[0].weight
    assert not any(buffer.is_meta for buffer in model.buffers())
    assert not nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize("cuts", [(), (2,), None], ids=str)
def test_a_model_from_a_checkpoint_trains_to_the_bits_of_one_in_memory(cuts, pool, tmp_path):
    make = partial(perceptron, *WIDTHS)
    job = small_job(model=make(), optimizer=partial(torch.optim.AdamW, lr=0.1), steps=3, cuts=cuts)
    checkpoint, target = save_sharded(job.model, tmp_path), tmp_path / "trained"
    wanted, losses = expected(job)
    streamed = replace(job, model=empty(make), weights=checkpoint, save_to=target)
    result = train([streamed, small_job("B")], pool.devices, pool=pool)
    assert result.jobs["A"].losses == losses
    found = saved_tensors(target)
    assert {name for name, _ in job.model.named_parameters()} == set(found)
    assert all(torch.equal(found[name].view(torch.int32), wanted[name].detach().view(torch.int32)) for name in found)
    assert all(parameter.is_meta for parameter in streamed.model.parameters())
    assert result.jobs["A"].optimizer_state == {}


def test_a_checkpoint_of_transformers_goes_in_and_comes_out(pool, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=8, vocab_size=11, use_cache=False, attn_implementation="eager"
    )
    make = lambda: transformers.GPT2LMHeadModel(config)  # noqa: E731
    torch.manual_seed(0)
    model = make()
    model.save_pretrained(tmp_path / "in", max_shard_size="8KB")
    assert (tmp_path / "in" / INDEX).exists()
    ids = torch.randint(0, 11, (2, 8))
    loss = lambda output, target: nn.functional.cross_entropy(output.logits.flatten(0, 1), target.flatten())  # noqa: E731
    job = TorchJob("A", model.train(), loss, [(ids, ids)] * 2, partial(torch.optim.SGD, lr=0.1))
    wanted, losses = expected(job)
    with without_weights():
        bare = make().train()
    streamed = replace(job, model=bare, weights=tmp_path / "in", save_to=tmp_path / "out")
    result = train([streamed], [CpuDevice(400_000)] * 2)
    assert result.jobs["A"].losses == losses
    config.save_pretrained(tmp_path / "out")
    trained = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    assert all(torch.equal(tensor, wanted[f"{name}"]) for name, tensor in trained.named_parameters())


def test_a_model_in_memory_may_be_saved_too_with_its_statistics(pool, tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    job = small_job(model=model, save_to=tmp_path, cuts=(1, 2))
    train([job], pool.devices, pool=pool)
    found = saved_tensors(tmp_path)
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    assert found["1.num_batches_tracked"] == 2


def test_a_single_file_and_its_folder_are_checkpoints(tmp_path):
    model = perceptron(*WIDTHS)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        weights = Weights(path)
        weights.check(dict(model.named_parameters()))
        names = [name for name, _ in model.named_parameters()]
        assert all(map(torch.equal, map(weights.read, names), model.parameters()))


def test_parameters_are_filled_for_as_long_as_it_takes(tmp_path):
    model, bare = perceptron(*WIDTHS), empty(partial(perceptron, *WIDTHS))
    weights, before = Weights(save_sharded(model, tmp_path)), list(bare.parameters())
    with weights.filled([bare], {id(parameter): name for name, parameter in bare.named_parameters()}):
        assert all(map(torch.equal, bare.parameters(), model.parameters()))
    assert all(parameter.is_meta for parameter in bare.parameters())
    assert all(a is b for a, b in zip(before, bare.parameters(), strict=True))


def test_shared_tensors_are_saved_once(tmp_path):
    saved, tensor = Saved(tmp_path, 2), torch.ones(3)
    saved.add({"a": tensor})
    saved.add({"a": tensor})
    saved.close()
    assert json.loads((tmp_path / INDEX).read_text()) == {
        "metadata": {"total_size": 12},
        "weight_map": {"a": "model-00001-of-00002.safetensors"},
    }


def job_of(tmp_path: Path, **fields: object) -> TorchJob:
    options = {"model": empty(partial(perceptron, *WIDTHS)), "weights": tmp_path, "save_to": tmp_path / "out"}
    return small_job(**(options | fields))


def test_what_is_missing_or_of_another_shape_is_refused(tmp_path):
    model = perceptron(*WIDTHS)
    with pytest.raises(JobError, match=r"cannot read .*model.safetensors.index.json"):
        job_of(tmp_path)
    state = model.state_dict()
    save_file({name: state[name] for name in list(state)[1:]}, tmp_path / "model.safetensors")
    with pytest.raises(
        JobError, match=r"lacks 0.0.weight of the model; it has 0.0.bias, 1.0.bias, 1.0.weight and 4 more"
    ):
        job_of(tmp_path)
    save_file(state | {"0.0.weight": torch.zeros(8, 5)}, tmp_path / "model.safetensors")
    with pytest.raises(JobError, match=r"0.0.weight is F32 of \(8, 5\); the model has F32 of \(8, 4\)"):
        job_of(tmp_path)
    save_file(state | {"0.0.weight": torch.zeros(8, 4).half()}, tmp_path / "model.safetensors")
    with pytest.raises(JobError, match=r"0.0.weight is F16 of"):
        job_of(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no such thing")
    with pytest.raises(JobError, match="cannot read"):
        job_of(tmp_path)


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": "../model.safetensors"}}'])
def test_an_index_that_is_none_is_refused(index, tmp_path):
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(JobError, match=r"is no index of a sharded checkpoint|which is not in its folder"):
        job_of(tmp_path)


def test_weights_that_would_be_lost_or_are_nowhere_are_refused(tmp_path):
    save_sharded(perceptron(*WIDTHS), tmp_path)
    with pytest.raises(JobError, match="say by save_to where the trained ones go"):
        job_of(tmp_path, save_to=None)
    with pytest.raises(JobError, match="'A': 0.0.weight has no memory"):
        prepare([job_of(tmp_path, weights=None)], [CpuDevice(1 << 20)])


_PEAK = """
import resource, sys, torch
from functools import partial
from pathlib import Path
from torch import nn
from executor import CpuDevice, TorchJob, prepare, without_weights
from executor.host_store import HostStore

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

def make(): return nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(24)))

data = [(torch.randn(1, 1024), torch.randn(1, 1024))]
with without_weights():
    model = make()
weights = Path(sys.argv[1])
job = TorchJob("A", model, nn.functional.mse_loss, data, partial(torch.optim.SGD, lr=0.1), weights=weights,
               save_to=weights / "out", cuts=tuple(range(2, 24, 2)))
HostStore(prepare([TorchJob("warm", nn.Sequential(nn.Linear(4, 4)), nn.functional.mse_loss,
    [(torch.randn(1, 4), torch.randn(1, 4))], partial(torch.optim.SGD, lr=0.1))], [CpuDevice(1 << 20)])).close()
before = peak()
prepared = prepare([job], [CpuDevice(256 << 20)])
piloted = peak()
store = HostStore(prepared)
print(piloted - before, peak() - before, store.reserved_bytes)
"""


def test_no_more_than_a_shard_lies_in_memory_beside_the_store(tmp_path):
    torch.manual_seed(0)
    save_sharded(nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(24))), tmp_path, num_files=4)
    command = [sys.executable, "-c", _PEAK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    piloted, opened, reserved = map(int, done.stdout.split())
    model_bytes, shard_bytes = 24 * 4 << 20, 2 * 4 << 20
    assert piloted < 6 * shard_bytes  # two copies, their gradients and what a pilot needs beside them
    assert opened <= reserved + piloted + shard_bytes
    assert opened < reserved + model_bytes


def test_pilots_leave_the_model_as_it_was(tmp_path):
    job = job_of(save_sharded(perceptron(*WIDTHS), tmp_path), dataloader=pairs(1))
    before = copy.deepcopy(list(job.model.parameters()))
    train([job], [CpuDevice(160_000)])
    assert all(a.is_meta and b.is_meta for a, b in zip(before, job.model.parameters(), strict=True))
