"""Jobs of a grid: one for every combination of choices, as model selection wants them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from executor.errors import JobError
from executor.job import TorchJob


def grid(make: Callable[..., TorchJob], choices: Mapping[str, Iterable[Any]], name: str = "") -> list[TorchJob]:
    """Call make(name, **combination) for every combination, the last choice changing fastest.

    name: begins every job's name; the combination follows, such as `bert-lr0.001-batch16`.

    Raises:
        JobError: a choice has no values, or two combinations read the same.
    """
    values = {key: list(found) for key, found in choices.items()}
    if empty := [key for key, found in values.items() if not found]:
        raise JobError(f"grid: {', '.join(empty)} has no values to choose from.")
    jobs: dict[str, TorchJob] = {}
    for combination in itertools.product(*values.values()):
        named = dict(zip(values, combination, strict=True))
        words = [name, *(f"{key}{_word(value)}" for key, value in named.items())]
        own = "-".join(word for word in words if word)
        if own in jobs:
            raise JobError(f"grid: two combinations are named {own!r}; give values that read differently.")
        jobs[own] = make(own, **named)
    return list(jobs.values())


def _word(value: Any) -> str:
    """Say a value in letters that a job's name may have."""
    text = getattr(value, "__name__", None) or str(value)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)
