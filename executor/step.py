"""What a step does beside the optimizer's own work: precision, accumulation, clipping, rates by step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_
from torch.utils._foreach_utils import _has_foreach_support

from executor.errors import JobError
from executor.scaling import LossScaling, scaled
from hydrasim.errors import told

if TYPE_CHECKING:
    from executor.job import TorchJob

Scheduler = Callable[[torch.optim.Optimizer], Any]
Rates = tuple[tuple[dict[str, Any], ...], ...]  # by step, by group: what a scheduler has changed


@dataclass(frozen=True)
class StepOptions:
    """How a job's mini-batches become steps; see `TorchJob` for what each field means."""

    autocast: torch.dtype | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    scaling: LossScaling | None = None
    scale: float | None = None  # of the mini-batch under way

    @property
    def in_units_of_its_own(self) -> bool:
        """Whether a step needs gradients of more than one backward, and so cannot be part of it."""
        return self.accumulate > 1 or self.clip_norm is not None or self.scaling is not None

    def casting(self, device_type: str = "cpu") -> AbstractContextManager[Any]:
        """Return the context in which a forward and its loss run."""
        return torch.autocast(device_type, dtype=self.autocast, enabled=self.autocast is not None)

    def objective(self, loss: torch.Tensor) -> torch.Tensor:
        """Return what a mini-batch goes backward from: its share of the loss of a step."""
        share = loss / self.accumulate if self.accumulate > 1 else loss
        return share if self.scale is None else scaled(share, self.scale)

    def clip(self, parameters: Sequence[nn.Parameter], norms: Sequence[torch.Tensor] = ()) -> None:
        """Clip gradients; norms: those of all gradients of the model, in the order of its parameters."""
        if self.clip_norm is not None:
            total = torch.linalg.vector_norm(torch.stack(list(norms)), 2.0)
            clip_grads_with_norm_(parameters, self.clip_norm, total)
        if self.clip_value is not None:
            clip_grad_value_(parameters, self.clip_value)


def norm_of(gradient: torch.Tensor) -> torch.Tensor:
    """Return the norm of one gradient by the kernel that `clip_grad_norm_` takes for it.

    The norm of a model is the norm of these, one a parameter; norms of shards or of flat buffers give other bits.
    """
    if _has_foreach_support([gradient], gradient.device):
        return torch._foreach_norm([gradient], 2.0)[0]
    return torch.linalg.vector_norm(gradient, 2.0)


def rates_of(job: TorchJob, num_steps: int) -> Rates:
    """Run the job's scheduler ahead, on an optimizer without gradients; return what it sets for each step.

    Raises:
        JobError: the scheduler goes by more than the number of steps.
    """
    if job.scheduler is None:
        return ()
    # Every group needs a parameter that is its own.
    stand_ins = [nn.Parameter(torch.zeros(1)) for _ in job.whole_optimizer.param_groups]
    optimizer = job.recipe_of_groups(stand_ins)
    found = [_options(optimizer)]
    try:
        scheduler = job.scheduler(optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer has not stepped: it has nothing to step on
            for _ in range(num_steps):
                found.append(_options(optimizer))
                scheduler.step()
    except Exception as reason:
        raise JobError(
            f"job {job.name!r}: the scheduler failed when run ahead: {told(reason)}\n"
            "  One that goes by a metric, as ReduceLROnPlateau does, is not supported."
        ) from reason
    moving = {key for groups in found for a, b in zip(found[0], groups, strict=True) for key in a if a[key] != b[key]}
    return tuple(
        tuple({key: value for key, value in group.items() if key in moving} for group in groups) for groups in found[1:]
    )


def _options(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], ...]:
    return tuple({key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups)
