"""What becomes of a step beside the optimizer's own work: byte for byte what the plain loop makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import CpuDevice, DevicePool, TorchJob, prepare, train
from executor.errors import JobError
from executor.step import norm_of, rates_of
from hydrasim.workload import Phase, ShardUnit
from tests.executor.worlds import differences, expected, pairs, perceptron, small_job, transformer


@pytest.fixture(scope="module")
def pool():
    with DevicePool([CpuDevice(160_000)] * 2) as pool:
        yield pool


def images(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(4, 3, 8, 8, generator=generator), torch.randint(0, 5, (4,), generator=generator))
        for _ in range(count)
    ]


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


def convolutional(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 5))
        return nn.Sequential(block(3, 8), block(8, 8), nn.MaxPool2d(2), block(8, 16), head)


def cnn_job(name: str, seed: int, **fields: object) -> TorchJob:
    return TorchJob(
        name, convolutional(seed), functional.cross_entropy, images(5),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), epochs=2, cuts=(1, 3), seed=seed, **fields,
    )  # fmt: skip


def units_of(job: TorchJob, pool: DevicePool) -> list[str]:
    result = train([job], pool.devices, policy="fifo", pool=pool)
    spans = sorted((span for span in result.timeline.spans if span.kind == "compute"), key=lambda span: span.start_s)
    return [span.unit for span in spans]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("fields", [{}, {"accumulate": 2, "clip_norm": 0.1}])
@pytest.mark.parametrize("mode", ["recompute", "keep", "spill"])
def test_statistics_of_batch_norm_change_once_a_mini_batch(mode, fields, fused, pool):
    jobs = [cnn_job("A", 1, activation_mode=mode, **fields), cnn_job("B", 2, activation_mode=mode, **fields)]
    answers = [expected(job) for job in jobs]
    result = train(prepare(jobs, pool.devices, fused=fused), policy="random", seed=1, chaos_seed=3, pool=pool)
    assert [d for job, answer in zip(jobs, answers, strict=True) for d in differences(job, result, answer)] == []


def test_a_buffer_that_only_sometimes_changes_is_told():
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.register_buffer("seen", torch.zeros(1))
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 3:
                self.seen += 1
            return super().forward(x)

    job = small_job(model=nn.Sequential(Counting(), nn.Linear(4, 2)), steps=4)
    with pytest.raises(Exception, match="a forward changed a buffer, unlike in the pilot"):
        train([job], [CpuDevice(1 << 20)], strict=True)


def test_clipping_by_the_norm_takes_update_units_after_the_last_backward(pool):
    assert units_of(small_job(steps=1, clip_norm=1.0), pool) == ["A/F0#0", "A/L1#0", "A/B0#0", "A/U0#0", "A/U1#0"]


def test_accumulation_steps_after_the_last_of_its_mini_batches_and_leaves_the_rest(pool):
    units = map(ShardUnit.parse, units_of(small_job(steps=5, accumulate=2), pool))
    updates = [str(unit) for unit in units if unit.phase is Phase.UPDATE]
    assert updates == ["A/U0#1", "A/U1#1", "A/U0#3", "A/U1#3"]


def test_clipping_by_value_needs_no_units_of_its_own(pool):
    assert units_of(small_job(steps=1, clip_value=1.0), pool) == ["A/F0#0", "A/L1#0", "A/B0#0"]


def test_a_fine_tuning_with_everything_is_exact(pool):
    # pretrained-style weights, rates that fall from layer to layer, no decay of norms and biases, warm-up and cosine,
    # dropout, accumulation and clipping
    def discriminative(model: nn.Sequential) -> torch.optim.Optimizer:
        groups = []
        for depth, layer in enumerate(reversed(list(model))):
            for decays in (True, False):
                mine = [p for p in layer.parameters() if p.requires_grad and (p.ndim >= 2) is decays]
                if mine:
                    groups.append({"params": mine, "lr": 0.01 * 0.8**depth, "weight_decay": 0.1 if decays else 0.0})
        return torch.optim.AdamW(groups)

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], 6)

    def job(name: str, seed: int) -> TorchJob:
        model = transformer(16, 0.1, seed)
        for parameter in model[0].parameters():
            parameter.requires_grad_(False)  # frozen embeddings
        data = [(torch.randint(0, 11, (2, 6)), torch.randint(0, 11, (2,))) for _ in range(6)]
        return TorchJob(name, model, functional.cross_entropy, data, discriminative(model), epochs=2, cuts=(1, 3),
                        seed=seed, accumulate=2, clip_norm=0.5, scheduler=schedule)  # fmt: skip

    torch.manual_seed(7)
    jobs = [job("A", 1), job("B", 2), job("C", 3)]
    answers = [expected(one) for one in jobs]
    result = train(jobs, pool.devices, policy="sharded-lrtf", pool=pool)
    assert [d for one, answer in zip(jobs, answers, strict=True) for d in differences(one, result, answer)] == []


def test_rates_are_those_that_the_scheduler_sets_step_by_step():
    job = small_job(scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5))
    assert [groups[0]["lr"] for groups in rates_of(job, 5)] == [0.1, 0.1, 0.05, 0.05, 0.025]
    assert rates_of(small_job(), 5) == ()


def test_rates_that_return_are_set_again():
    job = small_job(scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda n: 1 + n % 2))
    assert [groups[0]["lr"] for groups in rates_of(job, 4)] == [0.1, 0.2, 0.1, 0.2]


def test_a_scheduler_that_goes_by_a_metric_is_refused():
    job = small_job(scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(JobError, match="the scheduler failed when run ahead"):
        rates_of(job, 2)


def test_the_norm_of_one_gradient_is_that_which_torch_takes_into_the_whole():
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(size, generator=generator) for size in (3, 100, 4097)]
    whole = torch.linalg.vector_norm(torch.stack([norm_of(g) for g in gradients]), 2.0)
    assert whole.item() == torch.nn.utils.get_total_norm(gradients).item()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"accumulate": 1.5}, "accumulate is 1.5; it must be a whole number"),
        ({"clip_norm": 0.0}, "clip_norm and clip_value above 0"),
        ({"clip_value": -1.0}, "clip_norm and clip_value above 0"),
        ({"autocast": torch.float32}, "autocast is torch.float32"),
        ({"activation_mode": "drop"}, "activation_mode is 'drop'; it is one of auto, recompute, keep, spill"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(JobError, match=message):
        TorchJob("A", perceptron(4, 2), functional.mse_loss, pairs(2), lambda p: torch.optim.SGD(p, lr=0.1), **fields)
