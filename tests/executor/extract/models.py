"""Small modules of which each does one thing that makes taking a model apart hard."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 4


class Block(nn.Module):
    """Two linear layers, dropout and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.dropout(self.narrow(torch.tanh(self.wide(x))), 0.3, self.training)


class Stack(nn.Module):
    """An entry, three blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Glue(Stack):
    """Drops out, uses parameters and a buffer, and skips from the start to the end, all outside of any block."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, WIDTH))
        self.late = nn.Parameter(torch.randn(WIDTH))
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        start = self.entry(x)
        h = functional.dropout(torch.cat([self.first, start]), 0.5, self.training)
        for block in self.blocks:
            h = functional.dropout(block(h), 0.2, self.training) * self.scale
        return self.head(h[1:] + start * self.late) + x.mean()


class InPlace(Stack):
    """Overwrites in place what blocks return, and the batch."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x.mul_(0.5))
        for block in self.blocks:
            x = functional.relu_(block(x))
        return self.head(x)


class Residual(Stack):
    """Has its residual connections around blocks, not in them."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.entry(x))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Inseparable(Residual):
    """The same from its very beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        for part in [self.entry, *self.blocks]:
            x = x + part(x)
        return self.head(x)


class Masked(Stack):
    """Takes a branch by the batch: masked only if something is to be masked."""

    def forward(self, x: Tensor, mask: Tensor, unused: str = "") -> Tensor:
        h = self.entry(x)
        if not mask.all():
            h = h * mask[:, None]
        for block in self.blocks:
            h = block(h) if mask.all() else block(h) * mask[:, None]
        return self.head(h)


class Normed(Stack):
    """Counts in a buffer, as BatchNorm does."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)) for _ in range(3))


class Tied(nn.Module):
    """Uses the embedding for the logits, too, one block twice, and another never."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.never = Block()

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embedding(ids)
        for block in [*self.blocks, self.blocks[0]]:
            h = block(h)
        return functional.linear(h, self.embedding.weight)


class EarlyExit(Stack):
    """Decides by what it has computed how many blocks to run."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for block in self.blocks:
            if x.abs().mean() > 0:
                x = block(x)
        return self.head(x)


class LayerDrop(Stack):
    """Leaves out blocks by chance."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        for block in self.blocks:
            if random.random() < 0.5:
                x = block(x)
        return self.head(x)


class Skips(Stack):
    """Leaves out a block if the batch says so."""

    def forward(self, x: Tensor) -> Tensor:
        skipped = bool(x[0, 0] > 0)
        x = self.entry(x)
        for block in self.blocks[skipped:]:
            x = block(x)
        return self.head(x)


class Counts(Stack):
    """Keeps a number of calls that does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks[1].num_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.blocks[1].num_calls += 1
        return super().forward(x)


_TICKS = itertools.count()


class Unrepeatable(Stack):
    """Depends on something outside of itself and the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + next(_TICKS)


class Caches(Stack):
    """Fills a cache at its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.cache is None:
            self.cache = torch.linspace(0, 1, WIDTH)
        return super().forward(x * self.cache)


class Peeks(Stack):
    """Looks into a block from outside and asks itself for its parameters."""

    def forward(self, x: Tensor) -> Tensor:
        parameter = next(self.parameters())
        return super().forward(x.to(self.blocks[0].wide.weight.dtype).to(parameter.device))


class Boxes(nn.Linear):
    """Returns something that is no tensor."""

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(x=super().forward(x))


class HandsOnObjects(nn.Module):
    """Has a part that returns an object."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes, self.head = Boxes(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.boxes(x).x)


class Bare(nn.Module):
    """Has parameters and no parts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Hidden(nn.Module):
    """Calls another module than the one it has as a part, as a compiled module does."""

    def __init__(self) -> None:
        super().__init__()
        self.part = part = Stack()
        self.forward = lambda x: 2 * part(x)
