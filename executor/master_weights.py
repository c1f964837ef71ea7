"""An optimizer for weights in half precision: it steps on copies of them in fp32, and rounds these back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class MasterWeights(torch.optim.Optimizer):
    """Any optimizer of torch, stepping on fp32 copies: what is too small for bf16 to show adds up there.

    kind: the optimizer's class; options: its own. The copies are state ("master"), as its moments are, and so move,
    spill and come back with them.

        TorchJob(..., model.to(torch.bfloat16), optimizer=lambda p: MasterWeights(p, torch.optim.AdamW, lr=1e-3))
    """

    def __init__(self, params: Iterable[Any], kind: type[torch.optim.Optimizer], **options: Any) -> None:
        self.kind = kind
        super().__init__(params, kind([nn.Parameter(torch.zeros(1))], **options).defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step on the copies of all weights that have a gradient."""
        if closure is not None:
            raise ValueError("MasterWeights takes no closure.")
        masters: dict[nn.Parameter, nn.Parameter] = {}
        groups = []
        for group in self.param_groups:
            mine = {parameter: self._master(parameter) for parameter in group["params"] if parameter.grad is not None}
            groups.append({**group, "params": list(mine.values())})
            masters |= mine
        inner = self.kind.__new__(self.kind)
        states: defaultdict[nn.Parameter, dict[str, Any]] = defaultdict(dict)
        for parameter, master in masters.items():
            states[master] = {key: value for key, value in self.state[parameter].items() if key != "master"}
        inner.__setstate__({"defaults": self.defaults, "state": states, "param_groups": groups})
        inner.step()
        for parameter, master in masters.items():
            parameter.copy_(master)
            self.state[parameter].update(inner.state[master])

    def _master(self, parameter: nn.Parameter) -> nn.Parameter:
        """Return a weight's copy with its gradient, both in fp32."""
        state = self.state[parameter]
        if "master" not in state:
            state["master"] = parameter.detach().float()
        master = nn.Parameter(state["master"])
        assert parameter.grad is not None
        master.grad = parameter.grad.float()
        return master
