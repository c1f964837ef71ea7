"""Compares tensors by their bytes: two runs are the same only if this finds nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def identical(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names under which a and b differ in presence, dtype, shape or raw bytes, in order.

    The integer view counts: -0.0 differs from 0.0, and a NaN equals only the same NaN.
    """
    names = dict.fromkeys([*a, *b])
    return [name for name in names if name not in a or name not in b or not _same(a[name], b[name])]


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw_bytes(a), raw_bytes(b))


def raw_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's elements, in order, as uint8 on the host."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
