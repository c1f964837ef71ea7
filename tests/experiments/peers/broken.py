"""Contenders that go wrong, each in its own way, and one that does not."""

from __future__ import annotations

import os
import time

from experiments.peers.contenders.ideal import Ideal
from experiments.peers.distributed import DataParallelContender

HERE = "tests.experiments.peers.broken"


class StandIn(Ideal):
    """Takes the place of ours where that does not matter: it starts sooner."""

    registered_name = "stand-in"
    num_ranks = 1

    def memory_bytes(self):
        return 1000


class Hanging(Ideal):
    registered_name = "hanging"
    num_ranks = 1

    def train(self, minibatches):
        os.write(1, b"about to sleep")
        time.sleep(600)


class HalfHanging(DataParallelContender):
    """One rank waits in a collective for the other, which sleeps."""

    registered_name = "half-hanging"

    def wrap(self, spec, options):
        return None, None

    def train(self, minibatches):
        import torch.distributed as dist

        if self.rank.index:
            time.sleep(600)
        dist.barrier()


class Failing(Ideal):
    registered_name = "failing"

    def begin(self, options):
        raise ValueError("no such thing")


class Dying(Ideal):
    registered_name = "dying"

    def train(self, minibatches):
        os.write(1, b"a last word")
        os._exit(3)


class DyingLater(Ideal):
    """Trains what is checked, and dies in the first timed run."""

    registered_name = "dying-later"
    num_ranks = 1
    runs = 0

    def train(self, minibatches):
        self.runs += 1
        if self.runs > 1:
            os._exit(4)
        return super().train(minibatches)


class Wrong(Ideal):
    """Trains something else: it goes over the first mini-batch twice."""

    registered_name = "wrong"
    num_ranks = 1
    exact = False

    def train(self, minibatches):
        super().train(dict.fromkeys(minibatches, 1))
        return super().train(minibatches)
