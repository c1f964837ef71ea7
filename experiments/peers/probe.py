"""How fast two ranks exchange bytes over gloo, for the simulated rivals' links."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from experiments.peers.contender import Losses, Options
from experiments.peers.distributed import DistributedContender

_SMALL_BYTES, _LARGE_BYTES, _REPEATS = 64, 8 << 20, 15


class Probe(DistributedContender):
    """Two ranks that send tensors to and fro, and train nothing."""

    registered_name = "probe"

    def begin(self, options: Options) -> None:
        """Have nothing to build."""

    def train(self, minibatches: Mapping[str, int]) -> Losses:
        return {}

    def facts(self) -> dict[str, Any]:
        """Return latency and bandwidth of one direction, medians of there and back."""
        latency_s, large_s = self._one_way_s(_SMALL_BYTES), self._one_way_s(_LARGE_BYTES)
        return {"latency_s": latency_s, "bytes_per_s": _LARGE_BYTES / max(large_s - latency_s, 1e-9)}

    def _one_way_s(self, nbytes: int) -> float:
        tensor, seconds = torch.zeros(nbytes, dtype=torch.uint8), []
        for _ in range(_REPEATS):
            began_s = time.perf_counter()
            for sender in (0, 1):
                if self.rank.index == sender:
                    dist.send(tensor, 1 - sender)
                else:
                    dist.recv(tensor, sender)
            seconds.append((time.perf_counter() - began_s) / 2)
        return median(seconds[1:])
