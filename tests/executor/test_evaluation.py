"""Evaluation units: the plain loop's metrics to the bit, training untouched by them, and what they may not do."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor import CpuDevice, CsvLog, DevicePool, EarlyStopping, TorchJob, prepare, train
from executor.callbacks import EvaluationDone, MinibatchDone
from executor.compute import PLAIN
from executor.errors import ExecutionError, ExtractionError
from executor.evaluation import Score, evaluate, evaluating, mean_of
from executor.profiler import profile
from hydrasim import simulate
from hydrasim.command import normal_form
from hydrasim.errors import ShardTooLarge, WorkloadError
from hydrasim.planning import make_plan
from hydrasim.policies.follow_plan import FollowPlan
from tests.executor.worlds import DATA, differences, expected, pairs, perceptron, small_job, transformer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pool():
    with DevicePool([CpuDevice(400_000)] * 2) as pool:
        yield pool


def accuracy(output: torch.Tensor, target: torch.Tensor) -> float:
    return (output.argmax(1) == target).float().mean().item()


def gpt(name: str, seed: int = 0, **fields: object) -> TorchJob:
    """Return a transformer with dropout that is evaluated after each of its epochs."""
    defaults = {"dataloader": DATA["shuffled"](8), "evaluate_on": DATA["noisy"](5), "epochs": 3, "cuts": (2,)}
    return TorchJob(
        name, transformer(16, 0.1, seed), functional.cross_entropy, seed=seed,
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.01), **(defaults | fields),
    )  # fmt: skip


def check(pool, *jobs: TorchJob, **options) -> None:
    answers = [expected(job) for job in jobs]
    result = train(jobs, pool.devices, policy="random", seed=1, pool=pool, **options)
    assert [d for job, answer in zip(jobs, answers, strict=True) for d in differences(job, result, answer)] == []
    for job in jobs:
        schedule = prepare([job], pool.devices).workload.jobs[0].schedule
        assert len(result.jobs[job.name].metrics) == (schedule.num_epochs if job.evaluate_on else 0)
        assert result.jobs[job.name].status == "finished"


def test_metrics_are_those_of_the_plain_loop(pool):
    check(pool, gpt("A"), gpt("B", 1, metric=accuracy), small_job("C", epochs=2, evaluate_on=pairs(1)))


@pytest.mark.parametrize("data", DATA)
def test_whatever_either_loader_draws(data, pool):
    check(pool, gpt("A", dataloader=DATA[data](4), evaluate_on=DATA[data](4)))


def test_under_chaos(pool):
    check(pool, gpt("A"), gpt("B", 1), chaos_seed=3)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_steps": 6},
        {"max_steps": 8, "accumulate": 2, "clip_norm": 0.2},
        {"update_on": "host"},
        {"update_on": "host", "clip_norm": 0.1, "accumulate": 4},
        {"activation_mode": "keep"},
        {"activation_mode": "spill", "autocast": torch.bfloat16},
        {"cuts": (1, 2, 3, 4)},
        {"cuts": ()},
    ],
    ids=str,
)
def test_whatever_else_a_job_does(fields, pool):
    check(pool, gpt("A", **fields), gpt("B", 1))


def test_one_loader_to_train_and_to_evaluate_on(pool):
    loader = DATA["own generator"](4)
    check(pool, gpt("A", dataloader=loader, evaluate_on=loader))


class Norms(nn.Sequential):
    """BatchNorm and dropout, one of which stays in evaluation mode while the model trains."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.3),
            nn.Linear(8, 8),
            nn.BatchNorm1d(8).eval(),
            nn.Linear(8, 2),
        )


def test_batch_norm_and_modules_that_stay_in_evaluation_mode(pool):
    for cuts in ((), (2, 4)):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            jobs = [small_job(name, 4, Norms(), epochs=3, evaluate_on=pairs(3), cuts=cuts) for name in "AB"]
        check(pool, *jobs)
        assert [module.training for module in jobs[0].model] == [True, True, True, True, False, True]


def test_a_short_last_batch_weighs_as_many_samples_as_it_has(pool):
    batches = [(torch.randn(count, 4), torch.randn(count, 2)) for count in (5, 5, 1)]
    check(pool, small_job(epochs=2, evaluate_on=batches))
    assert mean_of([Score(1.0, 3), Score(5.0, 1)]) == 2.0
    assert mean_of([Score(1.0, 0), Score(5.0, 0)]) == 3.0


class Tower(nn.Module):
    """No chain: its own code calls its blocks, and looks at the mode that it is in."""

    def __init__(self, honest: bool = True) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(4, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.last, self.honest = nn.Linear(8, 2), honest

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        value = self.first(value)
        for block in self.blocks:
            value = functional.dropout(torch.tanh(block(value)), 0.3, self.training)
        if not self.training and not self.honest:
            value = self.blocks[0](value)
        return self.last(value)


def test_unmodified_models_are_evaluated_as_they_are(pool):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = Tower()
    check(pool, small_job(model=model, epochs=2, evaluate_on=pairs(2, batch=5), cuts=None))


def test_a_model_that_is_another_in_evaluation_mode_is_refused(pool):
    train([small_job(model=Tower(honest=False), cuts=None)], pool.devices, pool=pool)  # as long as it only trains
    with pytest.raises(ExtractionError, match="evaluation mode"):
        small_job(model=Tower(honest=False), evaluate_on=pairs(1), cuts=None)


def test_an_evaluation_takes_as_much_as_is_foreseen():
    """Its mini-batches are ten times those that train; the pilot has seen them, so nothing breaks its budget."""
    job = small_job(model=perceptron(4, 64, 64, 2), epochs=2, evaluate_on=pairs(2, batch=30), cuts=None)
    result = train([job], [CpuDevice(250_000)])
    assert result.peak_bytes[0] <= 250_000
    with pytest.raises(ShardTooLarge):
        prepare([job], [CpuDevice(60_000)])


def test_gradients_do_not_wait_over_an_evaluation(pool):
    with pytest.raises(WorkloadError, match="epochs of 3 that do not divide into steps of 2"):
        prepare([small_job(steps=3, accumulate=2, evaluate_on=pairs(1))], pool.devices)


def test_a_larger_batch_than_the_first_is_refused(pool):
    with pytest.raises(ExecutionError, match="a mini-batch has"):
        train([small_job(evaluate_on=[*pairs(1), *pairs(1, batch=9)])], pool.devices, strict=True)


def test_a_loader_that_ends_early_is_named():
    class Short(list):
        def __len__(self) -> int:
            return super().__len__() + 1

    with pytest.raises(ExecutionError, match="evaluate_on ended early, after 2 of 3 mini-batches"):
        train([small_job(evaluate_on=Short(pairs(2)))], [CpuDevice(160_000)], strict=True)


def test_a_metric_that_fails_is_named():
    def broken(output: torch.Tensor, target: torch.Tensor) -> float:
        if len(target) == 2:
            raise ValueError("no such metric")
        return 0.0

    job = small_job(evaluate_on=[*pairs(1), *pairs(1, batch=2)], metric=broken)
    with pytest.raises(ExecutionError, match=r"job 'A' failed in the compute of A/E1#3 on device 0: ValueError"):
        train([job], [CpuDevice(160_000)], strict=True)


def test_callbacks_are_told_of_each_evaluation(pool, tmp_path):
    told: list[MinibatchDone | EvaluationDone] = []

    class Told:
        def __call__(self, done: MinibatchDone) -> None:
            told.append(done)

        on_evaluation = __call__

    with CsvLog(tmp_path) as log:
        result = train([small_job(epochs=2, evaluate_on=pairs(2))], pool.devices, pool=pool, callbacks=[Told(), log])
    kinds = ["E" if isinstance(done, EvaluationDone) else "T" for done in told]
    assert "".join(kinds) == "TTETTE"
    assert [done.number for done in told if isinstance(done, MinibatchDone)] == [0, 1, 2, 3]
    evaluations = [done for done in told if isinstance(done, EvaluationDone)]
    assert [(done.epoch, done.num_epochs) for done in evaluations] == [(0, 2), (1, 2)]
    assert tuple(done.metric for done in evaluations) == result.jobs["A"].metrics
    rows = (tmp_path / "evaluation" / "A.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [[str(done.epoch), str(done.metric)] for done in evaluations]


def test_a_callback_that_fails_after_an_evaluation_is_named():
    class Failing:
        def __call__(self, done: MinibatchDone) -> None: ...

        def on_evaluation(self, done: EvaluationDone) -> None:
            raise ValueError("disk on fire")

    with pytest.raises(ExecutionError, match="after the evaluation of epoch 0 of job 'A': ValueError: disk on fire"):
        train([small_job(evaluate_on=pairs(1))], [CpuDevice(160_000)], callbacks=[Failing()], strict=True)


def test_early_stopping_by_the_metric(pool):
    """A job that does not learn is stopped after as many epochs as there is patience, the other goes on."""
    idle = partial(torch.optim.SGD, lr=0.0)
    jobs = [
        small_job("idle", epochs=9, evaluate_on=pairs(1), optimizer=idle),
        small_job("B", epochs=9, evaluate_on=pairs(1)),
    ]
    result = train(jobs, pool.devices, pool=pool, callbacks=[EarlyStopping(2, by="metric")])
    assert (result.jobs["idle"].status, result.jobs["B"].status) == ("stopped", "finished")
    assert len(result.jobs["idle"].metrics) == 3
    with pytest.raises(ExecutionError, match="goes by 'accuracy'"):
        EarlyStopping(2, by="accuracy")


def test_early_stopping_by_a_metric_that_should_rise():
    stopping = EarlyStopping(1, by="metric", greatest=True)
    values = [stopping.on_evaluation(EvaluationDone("A", n, 9, value, 0.0)) for n, value in enumerate((0.5, 0.6, 0.6))]
    assert values == [False, False, True]
    assert not stopping(MinibatchDone("A", 99, 100, 1e9, 0.0))


def test_a_plan_with_evaluations_is_followed_to_the_command(pool):
    jobs = [gpt("A"), gpt("B", 1)]
    answers = [expected(job) for job in jobs]
    prepared = prepare(jobs, pool.devices)
    measured = profile(prepared, rounds=1)
    costs = measured.costs(prepared.cluster)
    plan, _ = make_plan(prepared.workload, prepared.cluster, "sharded-lrtf", costs=costs)
    simulated, executed = [], []
    simulate(prepared.workload, prepared.cluster, FollowPlan(plan), costs=costs, commands=simulated)
    result = train(prepared, plan=plan, pool=pool, commands=executed)
    assert normal_form(executed) == normal_form(simulated)
    assert [d for job, answer in zip(jobs, answers, strict=True) for d in differences(job, result, answer)] == []


def test_a_few_mini_batches_to_measure_by_are_evaluated_on_a_few(pool):
    job = small_job(steps=2, epochs=4, evaluate_on=pairs(9))
    few = prepare([job], pool.devices).limited(3)
    counted = few.workload.jobs[0]
    assert (counted.num_minibatches, counted.evaluation_minibatches) == (3 + 2 * 3, 3)
    result = train(few, pool=pool, update_models=False)
    assert (len(result.jobs["A"].losses), len(result.jobs["A"].metrics)) == (3, 2)


def test_evaluating_puts_every_mode_back():
    layers = [nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5).eval(), nn.Dropout(0.5))]
    with suppress(KeyError), evaluating(layers):
        assert not any(module.training for layer in layers for module in layer.modules())
        assert not torch.is_grad_enabled()
        raise KeyError
    assert [module.training for layer in layers for module in layer.modules()] == [True, True, False, True]


def test_the_boundary_stays_as_it_is():
    boundary = -torch.ones(3)
    output = evaluate([nn.ReLU(inplace=True)], boundary, PLAIN)
    assert (output.tolist(), boundary.tolist()) == ([0.0] * 3, [-1.0] * 3)
