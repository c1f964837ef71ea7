"""Byte-level GPTs as lists of layers, and real text that is on every machine to train them on."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

VOCABULARY = 256  # bytes


class Embedding(nn.Module):
    """Token and position embeddings: (B, T) bytes to (B, T, D)."""

    def __init__(self, width: int, context: int, dropout: float) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_BT: Tensor) -> Tensor:  # noqa: N803
        """Return the embedded tokens."""
        positions = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        return self.dropout(self.token(tokens_BT) + self.position(positions))


class Block(nn.Module):
    """A pre-norm transformer block: causal multi-head attention and an MLP, both residual."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout_fraction = num_heads, dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:  # noqa: N803
        """Return the block's output, shape (B, T, D)."""
        x_BTD = x_BTD + self.dropout(self._attention(self.attention_norm(x_BTD)))  # noqa: N806
        return x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD)))

    def _attention(self, x_BTD: Tensor) -> Tensor:  # noqa: N803
        batch, length, width = x_BTD.shape
        heads = (batch, length, self.num_heads, width // self.num_heads)
        query, key, value = (part.view(heads).transpose(1, 2) for part in self.qkv(x_BTD).split(width, dim=2))
        dropout = self.dropout_fraction if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return self.projection(mixed.transpose(1, 2).reshape(batch, length, width))


class Head(nn.Module):
    """Final norm and projection to byte logits, shape (B, T, 256)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, VOCABULARY)

    def forward(self, x_BTD: Tensor) -> Tensor:  # noqa: N803
        """Return the logits of the next byte."""
        return self.logits(self.norm(x_BTD))


def byte_gpt(width: int, depth: int, num_heads: int, *, context: int, dropout: float, seed: int) -> nn.Sequential:
    """Build a byte-level GPT as a chain of layers, initialised from the seed."""
    torch.manual_seed(seed)
    blocks = [Block(width, num_heads, dropout) for _ in range(depth)]
    return nn.Sequential(Embedding(width, context, dropout), *blocks, Head(width))


class WindowEmbedding(nn.Module):
    """One vector for a whole window of bytes: (B, T) to (B, D)."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, 16)
        self.mix = nn.Linear(16 * context, width)

    def forward(self, tokens_BT: Tensor) -> Tensor:  # noqa: N803
        """Return the window's vector."""
        return self.mix(self.token(tokens_BT).flatten(1))


def byte_mlp(width: int, depth: int, *, context: int, seed: int) -> nn.Sequential:
    """Build a byte-level MLP that predicts the byte after a window: much state for little computation."""
    torch.manual_seed(seed)
    layers = [nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth)]
    return nn.Sequential(WindowEmbedding(width, context), *layers, nn.Linear(width, VOCABULARY))


def window_byte_loss(logits_BV: Tensor, targets_BT: Tensor) -> Tensor:  # noqa: N803
    """Return the mean cross-entropy of the byte after the window, in nats."""
    return functional.cross_entropy(logits_BV, targets_BT[:, -1])


def next_byte_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:  # noqa: N803
    """Return the mean cross-entropy of the next byte, in nats."""
    return functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


@cache
def standard_library_text(num_bytes: int = 1 << 19) -> bytes:
    """Return the first bytes of the Python standard library's own source files, in the order of their names."""
    folder = Path(sysconfig.get_path("stdlib"))
    text = b""
    for path in sorted(folder.glob("*.py")):
        text += path.read_bytes()
        if len(text) >= num_bytes:
            break
    return text[:num_bytes]


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Evenly spaced windows of a text: (bytes, the same shifted by one), each (context,) int64."""

    def __init__(self, text: bytes, num_windows: int, context: int) -> None:
        self._bytes = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._num_windows, self._context = num_windows, context
        self._stride = (len(text) - context - 1) // num_windows

    def __len__(self) -> int:
        return self._num_windows

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self._stride
        window = self._bytes[start : start + self._context + 1].long()
        return window[:-1], window[1:]


def text_loader(num_minibatches: int, batch_size: int, context: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return a shuffled loader over the standard library's text."""
    windows = Windows(standard_library_text(), num_minibatches * batch_size, context)
    return DataLoader(windows, batch_size=batch_size, shuffle=True)
