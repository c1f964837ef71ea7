"""The demo's models and data: causal, deterministic, and real text."""

from __future__ import annotations

import torch

from experiments.models import Windows, byte_gpt, next_byte_loss, standard_library_text, text_loader


def test_a_byte_sees_only_what_comes_before_it():
    model = byte_gpt(16, 2, 2, context=8, dropout=0.0, seed=0).eval()
    one = torch.arange(8)[None]
    other = one.clone()
    other[0, 5:] = 99
    assert torch.equal(model(one)[:, :5], model(other)[:, :5])
    assert not torch.equal(model(one)[:, 5:], model(other)[:, 5:])


def test_the_same_seed_gives_the_same_weights():
    models = [byte_gpt(16, 2, 2, context=8, dropout=0.1, seed=seed) for seed in (3, 3, 4)]
    first, again, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_targets_are_the_next_bytes_of_real_source_code():
    text = standard_library_text()
    assert b"import " in text
    inputs, targets = Windows(text, num_windows=10, context=32)[3]
    assert torch.equal(inputs[1:], targets[:-1])
    assert bytes(inputs.tolist()) in text


def test_the_loader_has_the_length_asked_for():
    loader = text_loader(5, 4, 16)
    assert len(loader) == 5
    assert next(iter(loader))[0].shape == (4, 16)


def test_an_untrained_model_is_about_as_good_as_guessing():
    model = byte_gpt(16, 1, 2, context=8, dropout=0.0, seed=0)
    tokens = torch.randint(256, (64, 8), generator=torch.Generator().manual_seed(0))
    loss = next_byte_loss(model(tokens), tokens)
    assert 5.0 < loss.item() < 6.5  # ln 256 = 5.55
