"""Which of a job's mini-batches train and which evaluate, after which its optimizer steps, and where it ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Schedule:
    """A job's mini-batches in one sequence, counted from 0: each epoch's that train, then those that evaluate.

    T T T E E | T T T E E | T E E     3 epochs of 3 mini-batches, evaluated on 2, cut short after 7 were trained on
    0 1 2 3 4   5 6 7 8 9   10 ..

    minibatches, evaluation_minibatches: of an epoch. accumulate: those that make up a step of the optimizer; what is
    left over at the end makes none. max_minibatches: that are trained on; the epoch in which they end is evaluated
    all the same. ends_after: of all, those after which the job ends, wherever that is.
    """

    minibatches: int
    epochs: int = 1
    evaluation_minibatches: int = 0
    accumulate: int = 1
    max_minibatches: int | None = None
    ends_after: int | None = None

    @cached_property
    def num_minibatches(self) -> int:
        """All mini-batches, those to evaluate on included."""
        whole = self._num_asked + self.num_epochs * self.evaluation_minibatches
        return whole if self.ends_after is None else min(whole, self.ends_after)

    @cached_property
    def num_epochs(self) -> int:
        """Epochs that are begun, by what was asked for."""
        return -(-self._num_asked // self.minibatches)

    @cached_property
    def num_trained(self) -> int:
        """Mini-batches that are trained on."""
        return self.trained_before(self.num_minibatches)

    @property
    def num_steps(self) -> int:
        """How often the optimizer steps."""
        return self.num_trained // self.accumulate

    @cached_property
    def last_trained(self) -> int:
        """The last mini-batch that is trained on."""
        return self._trained(self.num_trained - 1)

    @cached_property
    def last_step(self) -> int:
        """The mini-batch after which the optimizer steps for the last time, -1 if it never does."""
        return self._trained(self.num_steps * self.accumulate - 1)

    def epoch(self, minibatch: int) -> int:
        """Return the epoch of a mini-batch, from 0 on."""
        return min(minibatch // (self.minibatches + self.evaluation_minibatches), self.num_epochs - 1)

    def is_evaluation(self, minibatch: int) -> bool:
        """Tell whether a mini-batch is one to evaluate on."""
        if not self.evaluation_minibatches:
            return False
        epoch = self.epoch(minibatch)
        return minibatch - self._begin(epoch) >= self._trained_in(epoch)

    def place(self, minibatch: int) -> int:
        """Return how many of its epoch's mini-batches of its kind, to train or to evaluate on, come before it."""
        epoch = self.epoch(minibatch)
        place = minibatch - self._begin(epoch)
        return place - self._trained_in(epoch) if self.is_evaluation(minibatch) else place

    def ends_evaluation(self, minibatch: int) -> bool:
        """Tell whether a mini-batch is the last that its epoch is evaluated on."""
        return self.is_evaluation(minibatch) and self.place(minibatch) == self.evaluation_minibatches - 1

    def trained_before(self, minibatch: int) -> int:
        """Return how many of the mini-batches before one are trained on."""
        if not self.evaluation_minibatches:
            return minibatch
        epoch = self.epoch(minibatch)
        return epoch * self.minibatches + min(minibatch - self._begin(epoch), self._trained_in(epoch))

    def steps_after(self, minibatch: int) -> bool:
        """Tell whether the optimizer steps on the gradients of a mini-batch, and of those before it."""
        return self.trained_before(minibatch + 1) % self.accumulate == 0 and not self.is_evaluation(minibatch)

    def can_end_after(self, minibatch: int) -> bool:
        """Tell whether a job can go on after a mini-batch from its state alone, without gradients or scores."""
        return self.steps_after(minibatch) or self.ends_evaluation(minibatch)

    def saves_after(self, minibatch: int, every: int) -> bool:
        """Tell whether a checkpoint follows a mini-batch: the job's last one, or a step that completes `every`."""
        if minibatch == self.num_minibatches - 1:
            return True
        count = self.trained_before(minibatch + 1)
        return self.steps_after(minibatch) and count // every > (count - self.accumulate) // every

    def adds_up(self, minibatch: int) -> bool:
        """Tell whether a mini-batch that is trained on adds to the gradients of the one before."""
        return self.trained_before(minibatch) % self.accumulate != 0

    def step_of(self, minibatch: int) -> int:
        """Return the number, from 0 on, of the step to which a mini-batch's gradients go."""
        return self.trained_before(minibatch) // self.accumulate

    @cached_property
    def _num_asked(self) -> int:
        whole = self.minibatches * self.epochs
        return whole if self.max_minibatches is None else min(whole, self.max_minibatches)

    def _begin(self, epoch: int) -> int:
        return epoch * (self.minibatches + self.evaluation_minibatches)

    def _trained_in(self, epoch: int) -> int:
        return min(self.minibatches, self._num_asked - epoch * self.minibatches)

    def _trained(self, index: int) -> int:
        """Return the mini-batch that is the index-th to be trained on."""
        return index if index < 0 else index + index // self.minibatches * self.evaluation_minibatches
