"""The paper's models as lists of layers, by the authors' scripts; they are counted, so nobody needs memory for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIKITEXT_VOCABULARY = 28_783  # of torchtext's basic tokeniser, as the authors' script has it
GPT2_VOCABULARY = 50_257


class BertEmbedding(nn.Module):
    """Token, position and segment embeddings: (T, B) tokens to (T, B, D); the authors' layout is sequence first."""

    def __init__(self, vocabulary: int, width: int, num_positions: int, dropout: float) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(num_positions, width)
        self.segment, self.norm = nn.Embedding(2, width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_TB: Tensor) -> Tensor:  # noqa: N803
        """Return the embedded tokens."""
        positions = torch.arange(tokens_TB.shape[0], device=tokens_TB.device).unsqueeze(1)
        segments = torch.zeros_like(tokens_TB)
        embedded = self.token(tokens_TB) + self.position(positions) + self.segment(segments)
        return self.dropout(self.norm(embedded))


class BertLayer(nn.Module):
    """A post-norm encoder layer whose attention is written out, as models of 2021 had it."""

    def __init__(self, width: int, num_heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.mix, self.wide, self.narrow = nn.Linear(width, width), nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_TBD: Tensor) -> Tensor:  # noqa: N803
        """Return the layer's output, shape (T, B, D)."""
        length, batch, width = x_TBD.shape
        heads = (length, batch * self.num_heads, width // self.num_heads)
        query, key, value = (project(x_TBD).reshape(heads).transpose(0, 1) for project in self.qkv)
        scores = torch.bmm(query * heads[2] ** -0.5, key.transpose(1, 2))
        mixed = torch.bmm(self.dropout(torch.softmax(scores, dim=-1)), value)
        mixed = self.mix(mixed.transpose(0, 1).reshape(length, batch, width))
        x_TBD = self.attention_norm(x_TBD + self.dropout(mixed))  # noqa: N806
        hidden = self.dropout(functional.gelu(self.wide(x_TBD)))
        return self.ffn_norm(x_TBD + self.dropout(self.narrow(hidden)))


def bert_large_star(depth: int = 144, width: int = 1024) -> list[nn.Module]:
    """Return BERT-Large*, 972.6M parameters at depth 144; other sizes for what the paper leaves unsaid.

    Source: knagrecha/hydra 9faa5d6, twelve-model-task.py: width 1024, 16 heads, ffn 1024, dropout 0.5, vocabulary
    28783, 5000 positions.
    """
    layers = [BertLayer(width, max(1, width // 64), width, 0.5) for _ in range(depth)]
    head = [nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, WIKITEXT_VOCABULARY)]
    return [BertEmbedding(WIKITEXT_VOCABULARY, width, 5000, 0.5), *layers, *head]


class Patches(nn.Module):
    """An image's patches of 8 x 8, embedded, and a class token before them: (B, 3, 32, 32) to (B, 17, D)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(3 * 8 * 8, width)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 17, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images_BCHW: Tensor) -> Tensor:  # noqa: N803
        """Return the embedded patches."""
        batch = images_BCHW.shape[0]
        patches = images_BCHW.reshape(batch, 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(batch, 16, 192)
        embedded = torch.cat([self.token.expand(batch, -1, -1), self.project(patches)], dim=1)
        return self.dropout(embedded + self.position)


class ReAttention(nn.Module):
    """DeepViT's attention, whose heads are mixed by a learned matrix before use; with its residual."""

    def __init__(self, width: int, num_heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.head_width, inner = num_heads, head_width, num_heads * head_width
        self.norm, self.qkv, self.out = (
            nn.LayerNorm(width), nn.Linear(width, 3 * inner, bias=False), nn.Linear(inner, width),
        )  # fmt: skip
        self.mix, self.mix_norm = nn.Parameter(torch.zeros(num_heads, num_heads)), nn.LayerNorm(num_heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:  # noqa: N803
        """Return the output, shape (B, T, D)."""
        batch, length, _ = x_BTD.shape
        heads = (batch, length, self.num_heads, self.head_width)
        query, key, value = (part.reshape(heads).transpose(1, 2) for part in self.qkv(self.norm(x_BTD)).chunk(3, -1))
        scores = torch.softmax(query @ key.transpose(2, 3) * self.head_width**-0.5, dim=-1)
        mixed = torch.einsum("bhij,hg->bgij", self.dropout(scores), self.mix)
        mixed = self.mix_norm(mixed.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x_BTD + self.dropout(self.out((mixed @ value).transpose(1, 2).reshape(batch, length, -1)))


class FeedForward(nn.Module):
    """A pre-norm MLP with its residual."""

    def __init__(self, width: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = nn.LayerNorm(width), nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:  # noqa: N803
        """Return the output, shape (B, T, D)."""
        hidden = self.dropout(functional.gelu(self.wide(self.norm(x_BTD))))
        return x_BTD + self.dropout(self.narrow(hidden))


class ClassToken(nn.Module):
    """The class token's output, normalised: (B, T, D) to (B, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BTD: Tensor) -> Tensor:  # noqa: N803
        """Return the first token."""
        return self.norm(x_BTD[:, 0])


VIT_SIZES = {  # label: depth, width, ffn
    "300M": (24, 1024, 4096), "600M": (32, 1280, 5120), "800M": (38, 1280, 5120),
    "1B": (54, 1280, 5120), "1.5B": (80, 1280, 5120), "2B": (110, 1280, 5120),
}  # fmt: skip


def vit_star(size: str) -> list[nn.Module]:
    """Return ViT* of a label of `VIT_SIZES`, two layers a block as the authors' Sequential has it.

    Source: knagrecha/hydra 0172b31, twelve-model-task-vit.py: patch 8 of 32 x 32 images, 16 heads of 64, dropout 0.5.
    """
    depth, width, ffn = VIT_SIZES[size]
    blocks = [layer for _ in range(depth) for layer in (ReAttention(width, 16, 64, 0.5), FeedForward(width, ffn, 0.5))]
    return [Patches(width, 0.5), *blocks, ClassToken(width), nn.Linear(width, 10)]


class Gpt2Embedding(nn.Module):
    """Token and learned position embeddings: (B, T) tokens to (B, T, D)."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(GPT2_VOCABULARY, width), nn.Embedding(context, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens_BT: Tensor) -> Tensor:  # noqa: N803
        """Return the embedded tokens."""
        positions = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        return self.dropout(self.token(tokens_BT) + self.position(positions))


class Gpt2Block(nn.Module):
    """A block of GPT-2, with attention written out as its library of 2022 had it."""

    def __init__(self, width: int, num_heads: int, context: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("causal", torch.ones(1, 1, context, context, dtype=torch.bool).tril(), persistent=False)

    def forward(self, x_BTD: Tensor) -> Tensor:  # noqa: N803
        """Return the block's output, shape (B, T, D)."""
        batch, length, width = x_BTD.shape
        heads = (batch, length, self.num_heads, width // self.num_heads)
        parts = self.qkv(self.attention_norm(x_BTD)).split(width, dim=2)
        query, key, value = (part.reshape(heads).transpose(1, 2) for part in parts)
        scores = query @ key.transpose(2, 3) / heads[3] ** 0.5
        scores = torch.where(self.causal[:, :, :length, :length], scores, torch.finfo(scores.dtype).min)
        mixed = self.dropout(torch.softmax(scores, dim=-1)) @ value
        x_BTD = x_BTD + self.dropout(self.mix(mixed.transpose(1, 2).reshape(batch, length, width)))  # noqa: N806
        hidden = functional.gelu(self.wide(self.mlp_norm(x_BTD)), approximate="tanh")
        return x_BTD + self.dropout(self.narrow(hidden))


def gpt2_xl(num_blocks: int = 48, context: int = 512) -> list[nn.Module]:
    """Return GPT-2 XL as the authors' 51 layers, or a stack of so many of its blocks; the head has its own weights.

    Source: knagrecha/hydra 45184df: blocks of width 1600 with 25 heads, 30,740,800 parameters each.
    """
    blocks = [Gpt2Block(1600, 25, context) for _ in range(num_blocks)]
    return [Gpt2Embedding(1600, context), *blocks, nn.LayerNorm(1600), nn.Linear(1600, GPT2_VOCABULARY, bias=False)]


def gptj(num_blocks: int = 28, context: int = 512) -> list[nn.Module]:
    """Return GPT-2's blocks at GPT-J's width and heads; as many as it has make 6.05B parameters, as it has.

    GPT-J runs attention and MLP side by side, without biases and with rotary positions; that changes no product of
    matrices.

    Source: Wang and Komatsuzaki, GPT-J-6B (2021): 28 layers of width 4096 with 16 heads.
    """
    blocks = [Gpt2Block(4096, 16, context) for _ in range(num_blocks)]
    head = [nn.LayerNorm(4096), nn.Linear(4096, GPT2_VOCABULARY, bias=False)]
    return [Gpt2Embedding(4096, context), *blocks, *head]


def transformer(num_parameters: float) -> list[nn.Module]:
    """Return a chain of BERT-Large*'s layers of about so many parameters.

    The paper scales "Transformers" without saying how: depth is what its own BERT-Large* scales by.
    """
    fixed = sum(p.numel() for layer in bert_large_star(depth=0) for p in layer.parameters())
    layer = sum(p.numel() for p in BertLayer(1024, 16, 1024, 0.5).parameters())
    return bert_large_star(depth=max(1, round((num_parameters - fixed) / layer)))
