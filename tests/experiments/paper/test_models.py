"""The paper's models have the parameters that its scripts' models have."""

from __future__ import annotations

import pytest
import torch

from experiments.paper import models


def num_parameters(layers: list[torch.nn.Module]) -> int:
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


def test_bert_large_star_has_972_6_million_parameters():
    with torch.device("meta"):
        layers = models.bert_large_star()
    assert num_parameters(layers) == 972_596_335
    assert num_parameters(layers[1:2]) == 6_301_696  # as the authors' encoder layer


@pytest.mark.parametrize(
    ("size", "millions"),
    [("300M", 302.5), ("600M", 587.9), ("800M", 698.1), ("1B", 991.9), ("1.5B", 1469.3), ("2B", 2020.2)],
)
def test_vit_stars_have_the_parameters_behind_their_labels(size: str, millions: float):
    with torch.device("meta"):
        assert round(num_parameters(models.vit_star(size)) / 1e6, 1) == millions


def test_gpt2_xl_is_51_layers_of_which_48_blocks():
    with torch.device("meta"):
        layers = models.gpt2_xl()
    assert len(layers) == 51
    assert num_parameters(layers[1:2]) == 30_740_800
    assert num_parameters(layers) == 1_637_203_200  # the head's weights apart from the embedding's


def test_gptj_has_6_05_billion_parameters_in_31_layers():
    with torch.device("meta"):
        layers = models.gptj()
    assert len(layers) == 31
    assert round(num_parameters(layers) / 1e9, 2) == 6.05


@pytest.mark.parametrize("wanted", [100e6, 250e6, 900e6])
def test_transformers_come_within_half_a_layer_of_the_size_asked_for(wanted: float):
    with torch.device("meta"):
        assert abs(num_parameters(models.transformer(wanted)) - wanted) <= 6_301_696 / 2


def test_every_model_trains_on_real_tensors():
    tokens, images = torch.zeros(5, 2, dtype=torch.long), torch.randn(2, 3, 32, 32)
    chains = {
        "bert": (models.bert_large_star(depth=1, width=128), tokens, (5, 2, models.WIKITEXT_VOCABULARY)),
        "gpt2": ([models.Gpt2Block(100, 5, 8)], torch.randn(2, 8, 100), (2, 8, 100)),
        "vit": (
            [models.Patches(64, 0.0), models.ReAttention(64, 4, 16, 0.0), models.FeedForward(64, 128, 0.0),
             models.ClassToken(64)],
            images, (2, 64),
        ),
    }  # fmt: skip
    for layers, value, shape in chains.values():
        output = torch.nn.Sequential(*layers)(value)
        assert output.shape == shape
        output.square().mean().backward()


def test_a_gpt2_block_does_not_look_ahead():
    torch.manual_seed(0)
    block = models.Gpt2Block(100, 5, 8).eval()
    with torch.no_grad():
        block.qkv.weight.normal_()
    before = torch.randn(1, 8, 100)
    after = before.clone()
    after[:, 5] += 1.0
    assert torch.equal(block(before)[:, :5], block(after)[:, :5])
    assert not torch.equal(block(before)[:, 5:], block(after)[:, 5:])
