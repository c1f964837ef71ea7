"""1F1B: GPipe's pipeline, in which a stage goes back with a micro-batch as soon as it can, to keep fewer of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hydrasim.systems.gpipe import GPipe, Pass
from hydrasim.workload import Phase


@dataclass(frozen=True)
class OneFOneB(GPipe):
    """PipeDream-flush: stages alternate forwards and backwards once the pipeline is full; flush.

        device 1  .   F0  B0  F1  B1  F2  B2  .       as long as GPipe's, with at most as many micro-batches
        device 0  F0  F1  .   B0  F2  B1  .   B2      on their way as there are stages from here to the end

    recompute: "always" or "never"; it begins when the gradient is there, as a library's checkpointing does.
    The other fields are GPipe's.

    Source: Narayanan et al., Memory-Efficient Pipeline-Parallel DNN Training (2021), there called PipeDream-Flush;
    as in Megatron-LM and in DeepSpeed's pipeline engine.
    """

    registered_name = "1f1b"
    allowed: ClassVar[tuple[str, ...]] = ("always", "never")
    recomputes_ahead: ClassVar[bool] = False
    recompute: str = "never"

    def passes(self, order: int, num_stages: int, count: int) -> list[Pass]:
        ahead = self.num_alive(order, num_stages, count) - 1
        forwards = [(Phase.FORWARD, index) for index in range(count)]
        backwards = [(Phase.BACKWARD, index) for index in range(count)]
        pairs = zip(forwards[ahead:], backwards, strict=False)
        return forwards[:ahead] + [one for pair in pairs for one in pair] + backwards[count - ahead :]

    def num_alive(self, order: int, num_stages: int, count: int) -> int:
        return min(num_stages - order, count)
