"""What dataloaders yield: the first pair, to measure by, and how many samples are in one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import cloudpickle
import torch
from torch.utils import _pytree as pytree

from executor import randomness
from executor.errors import JobError
from hydrasim.errors import told

Batch = tuple[Any, Any]  # input, target


def first_batch(job: str, dataloader: Iterable[Batch], name: str = "dataloader") -> Batch:
    """Return the first mini-batch that a copy of a dataloader yields; the random state stays as it is.

    job, name: to complain by.

    Raises:
        JobError: it fails, or yields something else than (input, target) pairs.
    """
    before = randomness.save()
    try:
        batch = next(iter(cloudpickle.loads(cloudpickle.dumps(dataloader))))
    except StopIteration:
        raise JobError(f"job {job!r}: the {name} yields nothing.") from None
    except (Exception, SystemExit) as reason:
        raise JobError(f"job {job!r}: the {name} failed on its first mini-batch: {told(reason)}") from reason
    finally:
        randomness.restore(before)
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise JobError(f"job {job!r}: the {name} must yield (input, target) pairs.")
    return batch[0], batch[1]


def num_samples(target: Any, output: Any) -> int:
    """Return the length of the first tensor that has one, of the target's, then of the output's; else 1."""
    tensors = (leaf for leaf in pytree.tree_leaves((target, output)) if isinstance(leaf, torch.Tensor))
    return next((len(tensor) for tensor in tensors if tensor.dim()), 1)
