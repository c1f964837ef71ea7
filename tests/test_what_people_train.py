"""Jobs as people bring them: every one trained in shards, beside another, to the plain loop's bits."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import CpuDevice, DevicePool, TorchJob, train
from executor.errors import ExecutionError, JobError
from tests.executor.worlds import DATA, VOCABULARY, Tokens, differences, expected, perceptron, small_job, transformer

WIDTH = 8
OPTIMIZERS = {
    "Adadelta": {},
    "Adafactor": {},
    "Adagrad": {"lr_decay": 0.1},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "AdamW": {"lr": torch.tensor(1e-2)},
    "Adamax": {},
    "ASGD": {"t0": 2},
    "Muon": {"lr": 0.1},
    "NAdam": {"decoupled_weight_decay": True, "weight_decay": 0.1},
    "RAdam": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {},
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
}


@pytest.fixture(scope="module")
def pool():
    with DevicePool([CpuDevice(400_000)] * 2) as pool:
        yield pool


pytestmark = pytest.mark.usefixtures("one_thread")


def check(pool, *jobs: TorchJob) -> None:
    answers = [expected(job) for job in jobs]
    result = train(jobs, pool.devices, policy="random", seed=2, pool=pool)
    assert [d for job, answer in zip(jobs, answers, strict=True) for d in differences(job, result, answer)] == []


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if hasattr(torch.optim, name)])
def test_every_optimizer(name, pool):
    def matrices(seed: int) -> nn.Sequential:  # Muon takes nothing else
        return nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)), perceptron(4, 2, seed=seed)[0][:0])

    kind, options = getattr(torch.optim, name), OPTIMIZERS[name]
    jobs = [
        small_job(job, 8, matrices(seed), optimizer=lambda p: kind(p, **options), dataloader=DATA_OF_FOUR[:8])
        for seed, job in enumerate("AB")
    ]
    check(pool, *jobs)


DATA_OF_FOUR = [(torch.randn(3, 4), torch.randn(3, 4)) for _ in range(8)]


def test_every_optimizer_of_torch_is_tried_or_refused():
    found = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
    assert found - set(OPTIMIZERS) == {"LBFGS", "SparseAdam"}


def test_optimizers_that_cannot_be_are_refused_with_the_reason(pool):
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(VOCABULARY, 4, sparse=True)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.words(ids).mean(dim=1)

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target.unsqueeze(1)).square().mean()

    sparse = small_job(
        model=nn.Sequential(Bag()), loss_fn=loss, dataloader=DATA["in order"](4), cuts=(),
        optimizer=torch.optim.SparseAdam,
    )  # fmt: skip
    with pytest.raises(JobError, match="SparseAdam keeps 'step' as a int, not as a tensor"):
        train([sparse], pool.devices)
    with pytest.raises(JobError, match="LBFGS reruns the model within a step"):
        train([small_job(optimizer=torch.optim.LBFGS)], pool.devices)


class Words(nn.Module):
    """Takes and hands on a dict with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"hidden": self.words(batch["ids"]) * batch["mask"].unsqueeze(-1), "mask": batch["mask"]}


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        hidden = torch.tanh(self.mix(batch["hidden"])) * batch["mask"].unsqueeze(-1)
        return {"hidden": hidden, "mask": batch["mask"]}


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, 3)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.out(batch["hidden"].sum(1) / batch["mask"].sum(1, keepdim=True))


def loss_of_dict(output: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
    return functional.cross_entropy(output, target["label"])


def masked(count: int, length: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    mask = (torch.rand(count, length) > 0.3).float()
    mask[:, 0] = 1
    ids, labels = torch.randint(0, VOCABULARY, (count, length)), torch.randint(0, 3, (count,))
    return {"ids": ids, "mask": mask}, {"label": labels}


def masked_job(name: str, shapes: list[tuple[int, int]], **fields: object) -> TorchJob:
    return TorchJob(
        name, nn.Sequential(Words(), Mixing(), Mixing(), Mean()), loss_of_dict, [masked(*shape) for shape in shapes],
        lambda p: torch.optim.AdamW(p, lr=0.01), epochs=2, cuts=(1, 3), **fields,
    )  # fmt: skip


def test_dicts_with_masks_and_a_short_last_batch(pool):
    check(pool, masked_job("A", [(4, 6)] * 3), masked_job("B", [(4, 6), (4, 6), (1, 6)]))


def test_changing_shapes_where_the_largest_is_first_or_given(pool):
    check(
        pool,
        masked_job("A", [(4, 9), (4, 6), (2, 3)]),
        masked_job("B", [(4, 3), (2, 6), (4, 9)], largest_batch=masked(4, 9)),
        masked_job("C", [(1, 3), (3, 8), (4, 9)], largest_batch=masked(4, 9), activation_mode="keep", clip_norm=0.1),
    )


def test_a_batch_larger_than_the_first_says_what_to_do():
    with pytest.raises(ExecutionError, match="give the largest as `largest_batch`"):
        train([masked_job("A", [(4, 3), (4, 9)])], [CpuDevice(400_000)], strict=True)


def test_jobs_may_share_one_dataset(pool):
    data = Tokens(8)
    jobs = [
        TorchJob(name, transformer(16, 0.1, seed), functional.cross_entropy,
                 torch.utils.data.DataLoader(data, batch_size=2, shuffle=True), lambda p: torch.optim.AdamW(p, lr=0.01),
                 seed=seed, cuts=(1, 3))
        for seed, name in enumerate("ABC")
    ]  # fmt: skip
    check(pool, *jobs)


def vision_transformer() -> nn.Sequential:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 16, 4, stride=4)
            self.position = nn.Parameter(torch.zeros(1, 4, 16))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.embed(images).flatten(2).transpose(1, 2) + self.position

    class Classify(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.mean(dim=1))

    blocks = [nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2)]
    return nn.Sequential(Patches(), *blocks, Classify(16, 5))


def convolutional() -> nn.Sequential:
    first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(first, nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 5))


def test_families_may_be_mixed(pool):
    images = [(torch.randn(4, 3, 8, 8), torch.randint(0, 5, (4,))) for _ in range(3)]
    loss, cross = functional.cross_entropy, {"optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)}
    check(
        pool,
        TorchJob("cnn", convolutional(), loss, images, cuts=(1, 3), **cross),
        TorchJob("vit", vision_transformer(), loss, images, cuts=(1, 2), **cross),
        TorchJob("gpt", transformer(16, 0.1), loss, DATA["shuffled"](6), cuts=(1, 3), **cross),
    )


def test_low_rank_adapters_through_peft(pool):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0
    )

    def next_token(output: object, ids: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    def job(name: str, model: nn.Module) -> TorchJob:
        batches = [({"input_ids": ids}, ids) for ids in torch.randint(0, 32, (3, 2, 8))]
        return TorchJob(name, model, next_token, batches, lambda p: torch.optim.AdamW(p, lr=0.01))

    lora = peft.LoraConfig(r=2, target_modules=["c_attn"], lora_dropout=0.1)
    adapted = peft.get_peft_model(transformers.GPT2LMHeadModel(config), lora)
    frozen = {name: value.clone() for name, value in adapted.named_parameters() if not value.requires_grad}
    whole = job("whole", transformers.GPT2LMHeadModel(config))  # its head is its embedding
    check(pool, job("adapted", adapted), whole)
    assert all(torch.equal(value, frozen[name]) for name, value in adapted.named_parameters() if name in frozen)


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_layers(backend, pool):
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4)) for _ in range(2)]
    layers = [*(torch.compile(block, backend=backend) for block in blocks), nn.Linear(4, 2)]
    job = small_job("A", model=nn.Sequential(*layers), cuts=(1, 2), steps=3)
    answer = expected(job)
    assert differences(job, train([job], pool.devices, pool=pool), answer) == []
