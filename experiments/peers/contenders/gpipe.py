"""GPipe as torch has it: all micro-batches forward, then all backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.models import next_byte_loss
from experiments.peers.pipeline import PipelineContender

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage


class GPipe(PipelineContender):
    """Without recomputation, and without a limit on memory.

    Source: torch.distributed.pipelining.ScheduleGPipe; Huang et al., GPipe (2019).
    """

    registered_name = "gpipe"

    def schedule(self, stage: PipelineStage, microbatches: int) -> Any:
        from torch.distributed.pipelining import ScheduleGPipe  # a second to import, for those who need it

        return ScheduleGPipe(stage, microbatches, loss_fn=next_byte_loss)
