"""Jobs as users give them, good and bad; a file that is handed to the command line."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from executor import TorchJob

PILOT_CALLS = 3  # of a layer: F, then B or L twice


class FailsLater(nn.Module):
    """Does something bad in a call that no pilot comes to."""

    def __init__(self, deed: Any, calls: int = PILOT_CALLS + 3) -> None:
        super().__init__()
        self.deed, self.calls_left = deed, calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls_left -= 1
        if self.calls_left == 0:
            self.deed()
        return x


class Batches:
    """Yields so many mini-batches, whatever length it claims, and does something bad at one of them."""

    def __init__(self, count: int, length: int, deed: Any = None) -> None:
        self.count, self.length, self.deed = count, length, deed

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        for index in range(self.count):
            if self.deed is not None and index == 2:
                self.deed()
            yield torch.ones(8, 16), torch.ones(8, 4)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """Make an optimizer with state."""
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def job(name: str = "A", layer: nn.Module | None = None, **changes: Any) -> TorchJob:
    """Make a job of three layers; the middle one and all fields can be changed."""
    layers = [nn.Linear(16, 64), nn.Identity() if layer is None else layer, nn.Linear(64, 4)]
    fields = {"loss_fn": functional.mse_loss, "dataloader": Batches(20, 20), "optimizer": sgd, **changes}
    return TorchJob(name, nn.Sequential(*layers), **fields)


def good() -> list[TorchJob]:
    """Return two jobs that train for a while."""
    return [job(name, dataloader=Batches(150, 150), epochs=2) for name in "AB"]


def workers() -> list[TorchJob]:
    """Return a job whose loader has a process of its own."""
    data = torch.utils.data.TensorDataset(torch.randn(1200, 16), torch.randn(1200, 4))
    return [job("A", dataloader=torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, num_workers=1), epochs=2)]


def fail() -> None:
    """Raise what users' code raises."""
    raise ZeroDivisionError("cannot go on")


def leave() -> None:
    """End the program, as scripts do."""
    sys.exit(3)


def vanish() -> None:
    """End the process without a word."""
    os._exit(5)


def crash() -> None:
    """Crash as native code does."""
    os.kill(os.getpid(), signal.SIGSEGV)


def hoard() -> None:
    """Ask for four gigabytes."""
    torch.zeros(1 << 30)


def interrupt() -> None:
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt


class Speechless(Exception):
    """Has no readable message."""

    def __str__(self) -> str:
        raise ValueError


class Unpicklable:
    """A loss that cannot be sent anywhere."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot travel")

    def __deepcopy__(self, memo: Any) -> Unpicklable:
        return self

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return functional.mse_loss(output, target)


def mumble() -> None:
    """Raise what has no message."""
    raise Speechless


DEEDS = (fail, leave, vanish, crash, hoard, interrupt, mumble)
BAD_LAYERS = {f"layer_{deed.__name__}": (lambda deed=deed: [job(layer=FailsLater(deed)), job("B")]) for deed in DEEDS}
BAD_PILOTS = {
    f"pilot_{deed.__name__}": (lambda deed=deed: [job(layer=FailsLater(deed, 1))]) for deed in (fail, leave, mumble)
}
BAD_LOADERS = {
    f"loader_{deed.__name__}": (lambda deed=deed: [job(dataloader=Batches(5, 5, deed)), job("B")])
    for deed in DEEDS
    if deed is not hoard
}
BAD_JOBS = {
    "ends_early": lambda: [job(dataloader=Batches(3, 9))],
    "never_ends": lambda: [job(dataloader=Batches(9, 3), epochs=2)],
    "empty": lambda: [job(dataloader=Batches(0, 0))],
    "negative_length": lambda: [job(dataloader=Batches(0, -1))],
    "empty_but_long": lambda: [job(dataloader=Batches(0, 5))],
    "no_jobs": list,
    "nothing": lambda: None,
    "numbers": lambda: [1, 2],
    "same_names": lambda: [job(), job()],
    "bad_name": lambda: [job("a b")],
    "no_name": lambda: [job(None)],  # type: ignore[arg-type]
    "half_epochs": lambda: [job(epochs=1.5)],  # type: ignore[arg-type]
    "text_epochs": lambda: [job(epochs="2")],  # type: ignore[arg-type]
    "nan_steps": lambda: [job(max_steps=float("nan"))],  # type: ignore[arg-type]
    "negative_seed": lambda: [job(seed=-1)],
    "huge_seed": lambda: [job(seed=1 << 80)],
    "text_seed": lambda: [job(seed="x")],  # type: ignore[arg-type]
    "bad_cuts": lambda: [job(cuts=(2, 1))],
    "text_cuts": lambda: [job(cuts="12")],  # type: ignore[arg-type]
    "no_loss": lambda: [job(loss_fn=None)],
    "vector_loss": lambda: [job(loss_fn=lambda output, target: output - target)],
    "number_loss": lambda: [job(loss_fn=lambda output, target: 1.0)],
    "nan_loss": lambda: [job(loss_fn=lambda output, target: output.mean() * float("nan"))],
    "no_optimizer": lambda: [job(optimizer=None)],
    "failing_optimizer": lambda: [job(optimizer=lambda parameters: fail())],
    "leaving_optimizer": lambda: [job(optimizer=lambda parameters: leave())],
    "lbfgs": lambda: [job(optimizer=torch.optim.LBFGS)],
    "odd_batches": lambda: [job(dataloader=[1, 2, 3])],
    "other_shapes": lambda: [job(dataloader=[*Batches(1, 1), (torch.ones(8, 9), torch.ones(8))])],
    "text_batches": lambda: [job(dataloader=[("a", "b")] * 4)],
    "unpicklable": lambda: [job(loss_fn=Unpicklable())],
    "missing_name": lambda: undefined_name,  # type: ignore[name-defined]  # noqa: F821
    "leaves": leave,
    "raises": fail,
    "mumbles": mumble,
    "lacks_attribute": lambda: torch.no_such_thing,
    "huge_layer": lambda: [job(layer=nn.Linear(64, 1 << 16))],
}  # fmt: skip
BAD = {**BAD_LAYERS, **BAD_PILOTS, **BAD_LOADERS, **BAD_JOBS}


def __getattr__(name: str) -> Any:
    """Give the bad ones as functions of this module, `file.py:bad_empty`."""
    if name.startswith("bad_") and name.removeprefix("bad_") in BAD:
        return BAD[name.removeprefix("bad_")]
    raise AttributeError(name)
