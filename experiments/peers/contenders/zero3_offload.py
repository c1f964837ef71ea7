"""DeepSpeed ZeRO-3 with parameters and optimizer offloaded to host memory."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from experiments.models import next_byte_loss
from experiments.peers.contender import Options, Rank, Task
from experiments.peers.distributed import DataParallelContender
from experiments.peers.workloads import OPTIMIZERS
from experiments.workloads import GptSpec

_NUM_PERSISTENT = 100_000  # elements of a parameter below which DeepSpeed keeps it whole, by default
_BUCKET_ELEMENTS = 20_000_000  # holds any of our models' gradients; the default, 5e8, would take 2 GB a model


class Zero3Offload(DataParallelContender):
    """Each rank trains half of the mini-batch and updates its half of the state, on the host.

    Of AdamW there are DeepSpeed's own vector kernel and torch's; parameters below a size may stay whole, as is the
    default, or none. Clipping is off: since 2026 a configuration without a word on it clips at 1.0, which is another
    training. max_live_parameters are as many as ours has room for.

    Source: deepspeed.initialize, stage 3 with offload_param and offload_optimizer to cpu.
    """

    registered_name = "zero3-offload"
    packages = ("deepspeed",)
    variants = (
        {"adam": "deepspeed", "persistence_threshold": 0},
        {"adam": "deepspeed", "persistence_threshold": _NUM_PERSISTENT},
        {"adam": "torch", "persistence_threshold": _NUM_PERSISTENT},
    )

    def __init__(self, task: Task, rank: Rank) -> None:
        os.environ.update(DS_ACCELERATOR="cpu", LOCAL_RANK=str(rank.index), LOCAL_WORLD_SIZE=str(rank.count))
        super().__init__(task, rank)
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", verbose=False)

    @classmethod
    def offers(cls, optimizer: str) -> tuple[dict[str, Any], ...]:
        if optimizer.startswith("adamw"):
            return cls.variants
        return tuple({"persistence_threshold": count} for count in (0, _NUM_PERSISTENT))

    def wrap(self, spec: GptSpec, options: Options) -> tuple[Any, Any]:
        import deepspeed

        model, own = self.task.workload.model(spec), options.get("adam") == "deepspeed"
        config = self._config(options)
        optimizer = None
        if own:
            stated = OPTIMIZERS[self.task.optimizer](model.parameters()).defaults
            values = {name: stated[name] for name in ("lr", "betas", "eps", "weight_decay")}
            config["optimizer"] = {"type": "AdamW", "params": {**values, "torch_adam": False}}
        else:
            optimizer = self.optimizer(model)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        return engine, engine

    def step(self, model: Any, optimizer: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = next_byte_loss(model(inputs), targets)
        model.backward(loss)
        model.step()
        return loss

    def facts(self) -> dict[str, Any]:
        import deepspeed

        return {"deepspeed": deepspeed.__version__, "gradient_clipping": 0.0}

    def _config(self, options: Options) -> dict[str, Any]:
        workload = self.task.workload
        offload = {"device": "cpu", "pin_memory": False}
        return {
            "train_batch_size": workload.batch_size,
            "train_micro_batch_size_per_gpu": workload.batch_size // self.rank.count,
            "gradient_clipping": 0.0,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": options.get("adam") == "deepspeed",
            "zero_optimization": {
                "stage": 3,
                "overlap_comm": False,
                "offload_param": offload,
                "offload_optimizer": offload,
                "reduce_bucket_size": _BUCKET_ELEMENTS,
                "stage3_param_persistence_threshold": options["persistence_threshold"],
                "stage3_max_live_parameters": workload.state_bytes(self.task.optimizer) // 8,  # half, at 4 bytes each
            },
        }
