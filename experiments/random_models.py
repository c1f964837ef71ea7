"""Random models to try memory promises on: chains of unlike layers, each drawn from one seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from executor import TorchJob

VOCABULARY = 23
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True, weight_decay=1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-4, centered=True, momentum=0.5),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1e-3),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-3),  # rectifies from its sixth step on
}


@dataclass
class Draw:
    """A chain in the making. shape: of what the last layer hands on, without the batch."""

    rng: random.Random
    shape: tuple[int, ...]
    layers: list[nn.Module] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, layer: nn.Module, shape: tuple[int, ...] | None = None) -> None:
        """Append a layer that hands on this shape, by default the one it gets."""
        self.layers.append(layer)
        self.names.append(type(layer).__name__)
        self.shape = self.shape if shape is None else shape

    def width(self) -> int:
        """Return a layer's width: mostly small and odd, now and then twenty times as much."""
        return self.rng.choice([3, 7, 16, 17, 33, 64, 65, 100, 129, 300, 701])


def draw_job(seed: int, num_minibatches: int) -> TorchJob:
    """Draw the model of a seed, with its loss, data and optimizer; the global generators stay as they are."""
    rng = random.Random(seed)
    kind = rng.choice(["vector", "image", "sequence"])
    dtype = DTYPES[rng.choice(["float32"] * 4 + ["float64", "bfloat16"])]
    batch = rng.choice([1, 2, 3, 5, 8, 16, 31, 64])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        draw, inputs = _START[kind](rng, batch, dtype)
        for _ in range(rng.randint(1, 8)):
            rng.choice(_NEXT[len(draw.shape)])(draw)
        loss_fn, targets = _finish(draw, batch, dtype)
        _freeze(draw)
        layers = nn.Sequential(*_with_boundary(draw)).to(dtype)
        data = [(inputs(), targets()) for _ in range(num_minibatches)]
    name = f"{kind}-{seed}"
    optimizer = OPTIMIZERS[rng.choice(list(OPTIMIZERS))]
    return TorchJob(name, layers, loss_fn, data, optimizer, seed=seed)


def _start_vector(rng: random.Random, batch: int, dtype: torch.dtype) -> tuple[Draw, Callable[[], Tensor]]:
    draw = Draw(rng, (1,))
    width = draw.width()
    draw.add(nn.Linear(width, (out := draw.width())), (out,))
    return draw, lambda: torch.randn(batch, width, dtype=dtype)


def _start_image(rng: random.Random, batch: int, dtype: torch.dtype) -> tuple[Draw, Callable[[], Tensor]]:
    size, draw = rng.choice([5, 8, 13, 16]), Draw(rng, (1,))
    draw.add(nn.Conv2d(3, 8, 3, padding=1), (8, size, size))
    return draw, lambda: torch.randn(batch, 3, size, size, dtype=dtype)


def _start_sequence(rng: random.Random, batch: int, dtype: torch.dtype) -> tuple[Draw, Callable[[], Tensor]]:
    length, width, draw = rng.choice([1, 6, 17, 40]), rng.choice([8, 24, 64]), Draw(rng, (1,))
    draw.add(nn.Embedding(VOCABULARY, width), (length, width))
    return draw, lambda: torch.randint(0, VOCABULARY, (batch, length))


class Residual(nn.Module):
    """Adds what some layers make of the input to it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Recomputed(Residual):
    """The same, with a checkpoint of the user's own inside the shard."""

    def forward(self, x: Tensor) -> Tensor:
        return x + checkpoint(self.inner, x, use_reentrant=False)


class Attention(nn.Module):
    """Causal attention with dropout and a residual connection, on (B, T, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts, dropout_p=0.1, is_causal=True)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    """A GRU whose outputs alone go on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


class Masked(nn.Module):
    """Scales by a slice of a larger buffer."""

    def __init__(self, width: int, spare: int) -> None:
        super().__init__()
        self.register_buffer("mask", torch.rand(width + spare))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask[: x.shape[-1]]


class Placed(nn.Module):
    """Adds a slice of a table that is a plain attribute, as many position encodings are."""

    def __init__(self, width: int, spare: int) -> None:
        super().__init__()
        self.table = torch.rand(width + spare)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[: x.shape[-1]].to(x.dtype)


class Cached(nn.Module):
    """Makes a table in its first forward pass and keeps it, as many rotary embeddings do."""

    table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(8 * x.shape[-1], dtype=x.dtype).sin()
        return x + self.table[: x.shape[-1]]


class Gated(nn.Module):
    """Halves the last dimension by gating one half with the other."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.glu(x)


class Pooled(nn.Module):
    """Averages over all but the batch and one dimension."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims)


def _linear(draw: Draw) -> None:
    out = draw.width() if len(draw.shape) == 1 else draw.rng.choice([8, 24, 64, 130])
    draw.add(nn.Linear(draw.shape[-1], out, bias=draw.rng.random() < 0.8), (*draw.shape[:-1], out))


def _elementwise(draw: Draw) -> None:
    in_place = isinstance(draw.layers[-1], (nn.Linear, nn.Conv2d))  # others need their output in backward
    draw.add(draw.rng.choice([nn.ReLU(in_place), nn.ReLU(in_place), nn.GELU(), nn.Tanh(), nn.Dropout(0.2)]))


def _norm(draw: Draw) -> None:
    draw.add(nn.GroupNorm(2, draw.shape[0]) if len(draw.shape) == 3 else nn.LayerNorm(draw.shape[-1]))


def _residual(draw: Draw) -> None:
    width, inner = draw.shape[-1], draw.width()
    kind = draw.rng.choice([Residual, Recomputed])
    draw.add(kind(nn.Linear(width, inner), nn.GELU(), nn.Dropout(0.1), nn.Linear(inner, width)))


def _constant(draw: Draw) -> None:
    width, spare = draw.shape[-1], draw.rng.choice([0, 50, 3000])
    draw.add(draw.rng.choice([lambda: Masked(width, spare), lambda: Placed(width, spare), Cached])())


def _gated(draw: Draw) -> None:
    if draw.shape[-1] % 2 == 0 and draw.shape[-1] > 8:
        draw.add(Gated(), (*draw.shape[:-1], draw.shape[-1] // 2))


def _attention(draw: Draw) -> None:
    if draw.shape[-1] % 2 == 0:
        draw.add(Attention(draw.shape[-1]))


def _recurrent(draw: Draw) -> None:
    draw.add(Recurrent(draw.shape[-1]))


def _pool_sequence(draw: Draw) -> None:
    draw.add(Pooled((1,)), (draw.shape[-1],))


def _convolution(draw: Draw) -> None:
    channels, size = draw.shape[0], draw.shape[1]
    out, kernel, stride = draw.rng.choice([4, 8, 32, 34]), draw.rng.choice([1, 3]), draw.rng.choice([1, 1, 2])
    size = (size + 2 * (kernel // 2) - kernel) // stride + 1
    draw.add(nn.Conv2d(channels, out, kernel, stride, kernel // 2), (out, size, size))


def _resample(draw: Draw) -> None:
    channels, size = draw.shape[0], draw.shape[1]
    if size > 20 or (size > 3 and draw.rng.random() < 0.5):
        draw.add(draw.rng.choice([nn.MaxPool2d, nn.AvgPool2d])(2), (channels, size // 2, size // 2))
    else:
        draw.add(nn.Upsample(scale_factor=2), (channels, 2 * size, 2 * size))


def _flatten(draw: Draw) -> None:
    if draw.rng.random() < 0.5:
        draw.add(nn.Flatten(), (draw.shape[0] * draw.shape[1] * draw.shape[2],))
        draw.add(nn.Linear(draw.shape[0], (out := draw.width())), (out,))
    else:
        draw.add(Pooled((2, 3)), (draw.shape[0],))


_START = {"vector": _start_vector, "image": _start_image, "sequence": _start_sequence}
_NEXT: dict[int, list[Callable[[Draw], None]]] = {
    1: [_linear, _linear, _elementwise, _norm, _residual, _constant, _gated],
    2: [_linear, _elementwise, _norm, _residual, _constant, _gated, _attention, _attention, _recurrent, _pool_sequence],
    3: [_convolution, _convolution, _elementwise, _norm, _constant, _resample, _flatten],
}


class ClassWeighted(nn.Module):
    """Cross-entropy with class weights: a loss that holds a tensor."""

    def __init__(self, num_classes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", torch.rand(num_classes, dtype=dtype) + 0.5)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target, self.weight)


def _finish(draw: Draw, batch: int, dtype: torch.dtype) -> tuple[Any, Callable[[], Tensor]]:
    if len(draw.shape) > 1:
        draw.add(Pooled((1,) if len(draw.shape) == 2 else (2, 3)), (draw.shape[-1 if len(draw.shape) == 2 else 0],))
    out = draw.rng.choice([1, 2, 10, 257])
    draw.add(nn.Linear(draw.shape[0], out), (out,))
    if draw.rng.random() < 0.5:
        return functional.mse_loss, lambda: torch.randn(batch, out, dtype=dtype)
    return ClassWeighted(out, dtype), lambda: torch.randint(0, out, (batch,))


def _freeze(draw: Draw) -> None:
    """Freeze a layer of every other model, but never all of them."""
    with_weights = [layer for layer in draw.layers if list(layer.parameters())]
    if len(with_weights) > 1 and draw.rng.random() < 0.5:
        draw.rng.choice(with_weights[:-1]).requires_grad_(False)


class Carrying(nn.Module):
    """Hands a dict or tuple from layer to layer: the activation, the chain's first one, and a constant."""

    def __init__(self, layer: nn.Module, kind: str, first: bool, last: bool) -> None:
        super().__init__()
        self.layer, self.kind, self.first, self.last = layer, kind, first, last

    def forward(self, value: Any) -> Any:
        x, early = (value, None) if self.first else (value["x"], value["early"]) if self.kind == "dict" else value[:2]
        x = self.layer(x)
        if self.first:
            early = x.flatten(1).mean(1) if x.is_floating_point() else None
        if self.last:
            return x + early.unsqueeze(1)
        return {"x": x, "early": early, "none": None} if self.kind == "dict" else (x, early, 3)


def _with_boundary(draw: Draw) -> list[nn.Module]:
    """Return the layers, in every other model handing on tuples or dicts instead of a tensor."""
    kind = draw.rng.choice(["tensor", "tensor", "dict", "tuple"])
    if kind == "tensor":
        return draw.layers
    last = len(draw.layers) - 1
    return [Carrying(layer, kind, index == 0, index == last) for index, layer in enumerate(draw.layers)]
