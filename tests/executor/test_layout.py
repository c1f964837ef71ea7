"""Parameters and optimizer state as views of one block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from executor.errors import JobError
from executor.layout import ShardOnDevice, layout_of, parameters_of, state_on_host, tensor_state


def adamw(layers):
    return torch.optim.AdamW(parameters_of(layers), lr=0.1)


def stepped(layers, optimizer):
    for parameter in parameters_of(layers):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return [dict(optimizer.state[parameter]) for parameter in parameters_of(layers)]


@pytest.fixture
def shard():
    layers = [nn.Linear(3, 2)]
    layout = layout_of(parameters_of(layers), stepped(layers, adamw(layers)))
    return ShardOnDevice(layers, adamw(layers), layout), layout


def test_the_block_holds_parameters_flags_and_state_in_turn(shard):
    _, layout = shard
    assert [slot.offset for slot in layout.parameters] == [0, 64]
    assert layout.parameter_bytes == 128
    assert [(entry.parameter, entry.key, entry.slot.offset) for entry in layout.state] == [
        (0, "step", 192), (0, "exp_avg", 256), (0, "exp_avg_sq", 320),
        (1, "step", 384), (1, "exp_avg", 448), (1, "exp_avg_sq", 512),
    ]  # fmt: skip
    assert layout.optimizer_bytes == 64 + 6 * 64
    assert layout.block_bytes == 576


def test_without_state_there_is_no_room_for_any():
    layout = layout_of(list(nn.Linear(3, 2).parameters()), [{}, {}])
    assert (layout.optimizer_bytes, layout.block_bytes) == (0, 128)


def test_shared_parameters_count_once():
    linear = nn.Linear(2, 2)
    assert len(parameters_of([linear, nn.Sequential(linear)])) == 2


def test_attached_parameters_read_and_write_the_block(shard):
    on_device, layout = shard
    block = torch.zeros(layout.block_bytes, dtype=torch.uint8)
    layout.parameters[1].view(block).fill_(5.0)
    on_device.attach_parameters(block)
    assert on_device.parameters[1].tolist() == [5.0, 5.0]
    with torch.no_grad():
        on_device.parameters[0].fill_(2.0)
    assert layout.parameters[0].view(block).flatten().tolist() == [2.0] * 6


def test_state_is_handed_over_only_once_it_was_made(shard):
    on_device, layout = shard
    block = torch.zeros(layout.block_bytes, dtype=torch.uint8)
    on_device.attach_parameters(block)
    on_device.attach_state(block)
    assert not on_device.optimizer.state
    stepped(on_device.layers, on_device.optimizer)
    on_device.keep_state(block)
    assert layout.flags(block).tolist() == [1, 1]
    moved = block.clone()
    on_device.attach_parameters(moved)
    on_device.attach_state(moved)
    state = on_device.optimizer.state[on_device.parameters[0]]
    assert state["step"].item() == 1.0
    assert state["exp_avg"].data_ptr() == layout.state[1].slot.view(moved).data_ptr()


def test_state_of_one_parameter_can_be_kept_alone(shard):
    on_device, layout = shard
    block = torch.zeros(layout.block_bytes, dtype=torch.uint8)
    on_device.attach_parameters(block)
    stepped(on_device.layers, on_device.optimizer)
    on_device.keep_state(block, only=on_device.parameters[1])
    assert layout.flags(block).tolist() == [0, 1]


def test_state_that_is_no_tensor_is_refused():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter] = {"count": 3, "buffer": None}

    def complain(problem):
        raise JobError(problem)

    with pytest.raises(JobError, match="SGD keeps 'count' as a int"):
        tensor_state(optimizer, parameter, complain)


@pytest.mark.parametrize(
    ("make", "on_host"),
    [
        (torch.optim.AdamW, {"step"}),
        (lambda p: torch.optim.AdamW(p, fused=True), set()),
        (lambda p: torch.optim.AdamW(p, capturable=True), set()),
    ],
)
def test_optimizer_state_lies_on_a_gpu_where_torch_puts_it(make, on_host):
    # The pilot makes all state on the CPU, and so called all of it host memory's.
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))]
    states = [{key: torch.zeros(()) for key in ("step", "exp_avg")} for _ in parameters]
    placed = state_on_host(layout_of(parameters, states), make(parameters), parameters)
    assert {entry.key for entry in placed.state if entry.on_host} == on_host
