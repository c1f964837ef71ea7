"""Sharded-LRTF: the job with the longest remaining training time goes first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.policies.base import Policy

if TYPE_CHECKING:
    from hydrasim.view import JobView, View
    from hydrasim.workload import ShardUnit


@dataclass(frozen=True)
class ShardedLRTF(Policy):
    """Pick the eligible unit whose job has the most training time left; ties go to the first one.

    The printed algorithm starts its comparison at 0 and so never picks a job with nothing left after
    the unit; here the first candidate always counts.

    within_minibatch: count what is left of the current mini-batch; the released code does not.
    online_minibatch_s: re-estimate the mini-batch time from the units run so far, as the released code
    does; and in a job's first pass count all epochs as left, as it does too.

    Source: Algorithm 2 of the paper; the two switches, the released code.
    """

    registered_name = "sharded-lrtf"
    within_minibatch: bool = True
    online_minibatch_s: bool = False

    def choose(self, device: int, view: View) -> ShardUnit | None:
        return max(view.eligible(device), key=lambda unit: self._remaining_s(view.job(unit.job)))

    def _remaining_s(self, job: JobView) -> float:
        if self.within_minibatch and not self.online_minibatch_s:
            return job.remaining_s
        done = job.minibatches_done
        minibatch_s = job.busy_s / done if self.online_minibatch_s and done else job.minibatch_s
        whole = job.minibatches_left + (job.job.minibatches if self.online_minibatch_s and not done else 0)
        if self.within_minibatch:
            return whole * minibatch_s + job.minibatch_left_s
        return (whole + 1) * minibatch_s
