"""1F1B as torch has it: a stage goes backward as soon as it can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.models import next_byte_loss
from experiments.peers.pipeline import PipelineContender

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage


class OneFOneB(PipelineContender):
    """Without recomputation, and without a limit on memory.

    Source: torch.distributed.pipelining.Schedule1F1B; Narayanan et al., PipeDream-Flush (2021).
    """

    registered_name = "1f1b"

    def schedule(self, stage: PipelineStage, microbatches: int) -> Any:
        from torch.distributed.pipelining import Schedule1F1B  # a second to import, for those who need it

        return Schedule1F1B(stage, microbatches, loss_fn=next_byte_loss)
