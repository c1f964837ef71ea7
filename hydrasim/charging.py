"""What the simulated world charges: a cost model's seconds, checked, and varied by chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from hydrasim.command import Command, Kind
from hydrasim.errors import ProfileError
from hydrasim.profile import MAX_SECONDS

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.command import Lane
    from hydrasim.profile import CostModel

MAX_VARIATION = 10.0

Seconds = Callable[[Command], float]


def charging(costs: CostModel, cluster: Cluster) -> Seconds:
    """Return what a command takes, in seconds, by a cost model, and by the cluster for what moves to its disk.

    Raises:
        ProfileError: when called, if that is no time.
    """

    def seconds(command: Command) -> float:
        if command.kind is Kind.COMPUTE:
            value = costs.compute_s(command.unit, command.device, command.mode)
        elif command.kind is Kind.FETCH:
            value = costs.fetch_s(command.unit.job)
        elif command.kind is Kind.UPDATE:
            value = costs.update_s(command.unit.job, command.unit.shard)
        elif command.kind is Kind.RESTORE:
            value = cluster.restart_s
        elif command.kind in (Kind.READ, Kind.WRITE, Kind.SAVE):
            value = cluster.disk_s(command.nbytes, "read" if command.kind is Kind.READ else "write")
        else:
            value = costs.copy_s(command.nbytes, command.device, "h2d" if command.kind is Kind.LOAD else "d2h")
        return checked_s(command, value)

    return seconds


def checked_s(command: Command, seconds: float) -> float:
    """Return what a command takes, if it is a time.

    Raises:
        ProfileError: it is none.
    """
    if 0 <= seconds <= MAX_SECONDS:
        return seconds
    raise ProfileError(
        f"the costs say that {command} takes {seconds} s; it must be from 0 to {MAX_SECONDS:.0e} s.\n"
        "  Correct the seconds of the workload or profile, the speed of the device or its link."
    )


def noisy(seconds: Seconds, costs: CostModel, seed: int) -> Seconds:
    """Return seconds that vary by chance about the given ones, as their costs say.

    A factor of log-normal distribution and mean 1, drawn lane by lane, so that the n-th command of a lane
    meets the same luck whatever happens elsewhere.
    """
    luck: dict[tuple[int | str, Lane], Random] = {}

    def varied(command: Command) -> float:
        variation = costs.variation(command)
        if not 0 <= variation <= MAX_VARIATION:
            raise ProfileError(
                f"the costs say that {command} varies by {variation} of its mean; it must be from 0 to {MAX_VARIATION}."
            )
        lane = command.lane_key
        if lane not in luck:
            luck[lane] = Random(f"{seed} {lane}")
        normal, sigma = luck[lane].gauss(0.0, 1.0), math.sqrt(math.log1p(variation**2))
        return seconds(command) * math.exp(sigma * normal - sigma**2 / 2)

    return varied
