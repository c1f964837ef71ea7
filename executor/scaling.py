"""Loss scaling, as `torch.amp.GradScaler` does it: gradients of fp16 are scaled up, steps with an inf left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Scale(NamedTuple):
    """By what losses are multiplied from now on, and whether the step before is left out.

    growth: steps without an inf since it changed last.
    """

    value: float
    growth: int = 0
    skips: bool = False


@dataclass(frozen=True)
class LossScaling:
    """How the scale moves; `torch.amp.GradScaler` says what each field means."""

    init_scale: float
    growth_factor: float
    backoff_factor: float
    growth_interval: int

    @classmethod
    def of(cls, scaler: torch.amp.GradScaler | None) -> LossScaling | None:
        """Return what a scaler is set to; None for none, or one that is switched off."""
        if scaler is None or not scaler.is_enabled():
            return None
        return cls(
            scaler.get_scale(), scaler.get_growth_factor(), scaler.get_backoff_factor(), scaler.get_growth_interval()
        )

    @property
    def first(self) -> Scale:
        return Scale(self.init_scale)

    def after(self, scale: Scale, found_inf: bool) -> Scale:
        """Return the scale after a step whose gradients have an inf, or not; by torch's own kernel."""
        value, growth = torch.tensor(scale.value), torch.tensor(scale.growth, dtype=torch.int32)
        torch._amp_update_scale_(
            value, growth, torch.tensor(float(found_inf)), self.growth_factor, self.backoff_factor, self.growth_interval
        )
        return Scale(value.item(), int(growth.item()), found_inf)


def scaled(loss: torch.Tensor, scale: float) -> torch.Tensor:
    """Return a loss times the scale, which is a tensor of fp32 as a scaler's is."""
    return loss * torch.full((), scale, dtype=torch.float32, device=loss.device)


def unscale(gradients: Iterable[torch.Tensor], scale: float) -> bool:
    """Divide gradients by the scale in place, by torch's own kernel; tell whether one holds an inf or NaN."""
    found_inf = False
    for gradient in gradients:
        inverse = torch.full((), scale, dtype=torch.float32).double().reciprocal().float().to(gradient.device)
        found = torch.zeros((), dtype=torch.float32, device=gradient.device)
        torch._amp_foreach_non_finite_check_and_unscale_([gradient], found, inverse)
        found_inf |= bool(found.item())
    return found_inf
