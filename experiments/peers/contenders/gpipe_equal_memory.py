"""GPipe that recomputes activations, so that a rank takes no more memory than a device of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.models import next_byte_loss
from experiments.peers.pipeline import PipelineContender

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage


class GPipeEqualMemory(PipelineContender):
    """Each stage keeps the inputs of its micro-batches; torch.utils.checkpoint runs its forward again.

    Source: Huang et al., GPipe (2019), section 2.3, "re-materialization".
    """

    registered_name = "gpipe-equal-memory"
    recompute = True
    within_budget = True

    def schedule(self, stage: PipelineStage, microbatches: int) -> Any:
        from torch.distributed.pipelining import ScheduleGPipe  # a second to import, for those who need it

        return ScheduleGPipe(stage, microbatches, loss_fn=next_byte_loss)
