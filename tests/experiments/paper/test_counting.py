"""Joined counts of layers are those of the joined layers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from executor.analytic import AnalyticPilot, counted
from experiments.paper.counting import ModelSpec, _torch_job, count_layers, even_cuts
from hydrasim.errors import HydraError

SMALL = ModelSpec("transformer", "9e7", 2)


def total(kernels) -> tuple[int, int]:
    return sum(kernel.flops for kernel in kernels), sum(kernel.nbytes for kernel in kernels)


@pytest.mark.parametrize(
    ("spec", "precision", "layers_each", "less"),
    [
        (SMALL, "fp32", 3, 0.01), (SMALL, "fp16", 3, 0.01), (ModelSpec("vit", "300M", 64), "fp32", 6, 0.02),
        (ModelSpec("transformer", "2.5e8", 16), "fp32", 2, 0.12),  # of which a shard is a Linear and its GELU
    ],
)  # fmt: skip
def test_joining_layers_gives_what_counting_them_together_gives(spec, precision, layers_each, less):
    layers = count_layers(spec, precision)
    cuts = even_cuts(len(layers.kernels), layers_each)
    joined = layers.cut(cuts)
    with torch.device("meta"):
        job = _torch_job(spec)
    workload, counts = counted([AnalyticPilot(job, precision)], [cuts])
    for index, (ours, whole) in enumerate(zip(joined.job.shards, workload.jobs[0].shards, strict=True)):
        assert (ours.parameter_bytes, ours.optimizer_bytes, ours.output_bytes, ours.activation_bytes) == (
            whole.parameter_bytes, whole.optimizer_bytes, whole.output_bytes, whole.activation_bytes,
        )  # fmt: skip
        assert (1 - less) * whole.working_bytes < ours.working_bytes <= whole.working_bytes
        run = counts[workload.jobs[0].name, index]
        assert total(joined.kernels[index].forward) == total(run.forward)
        assert total(joined.kernels[index].backward) == total(run.backward)
        assert total(joined.kernels[index].update) == total(run.update)


def test_autocast_moves_fp32_weights_and_computes_between_fp16_activations():
    whole, half, mixed = (count_layers(SMALL, precision) for precision in ("fp32", "fp16", "autocast"))
    for in_fp32, in_fp16, autocast in zip(whole.job.shards, half.job.shards, mixed.job.shards, strict=True):
        assert autocast.parameter_bytes == pytest.approx(in_fp32.parameter_bytes, abs=64)  # padding may double
        assert autocast.output_bytes == in_fp16.output_bytes
        assert in_fp16.working_bytes + in_fp16.parameter_bytes == autocast.working_bytes <= in_fp32.working_bytes
    assert total(mixed.kernels[1].update) == total(whole.kernels[1].update)
    cast_bytes = total(mixed.kernels[1].forward)[1] - total(half.kernels[1].forward)[1]
    assert cast_bytes == 6 * mixed.job.shards[1].parameter_bytes // 4  # reads four bytes an element, writes two


def test_even_cuts_leave_no_shard_empty():
    for layers_each in range(1, 12):
        ends = [0, *even_cuts(11, layers_each), 11]
        assert all(1 <= end - start <= layers_each for start, end in pairwise(ends))


def test_an_unknown_family_is_refused():
    with pytest.raises(HydraError, match="model family is 'cnn'; it is"):
        count_layers(ModelSpec("cnn", "1", 1), "fp32")
