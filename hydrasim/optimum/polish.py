"""Improves a plan step by step: one unit moved at a time, each neighbour simulated, the first better one kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hydrasim.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hydrasim.plan import Plan, Step


def polish(plan: Plan, makespan_s: Callable[[Plan], float], bound_s: float, num_trials: int) -> Plan:
    """Return a plan that no move of a single unit improves, or the best one after so many trials.

    A solver's order is best for its relaxation; the simulator breaks ties that the relaxation does not see.
    makespan_s: simulates a plan; it may raise PlanError for orders in which units wait for each other. bound_s: where
    to stop, since nothing is better.
    """
    best_s = makespan_s(plan)
    neighbours = _neighbours(plan)
    for _ in range(num_trials):
        neighbour = next(neighbours, None)
        if neighbour is None or best_s <= bound_s:
            break
        try:
            found_s = makespan_s(neighbour)
        except PlanError:
            continue
        if found_s < best_s:
            plan, best_s = neighbour, found_s
            neighbours = _neighbours(plan)
    return plan


def _neighbours(plan: Plan) -> Iterator[Plan]:
    """Yield the plans that differ by where one unit runs; later units first, as they are freer."""
    for device in range(len(plan.devices)):
        for position in reversed(range(len(plan.devices[device]))):
            step = plan.devices[device][position]
            rest = _without(plan.devices, device, position)
            for other in range(len(rest)):
                for place in reversed(range(len(rest[other]) + 1)):
                    if (other, place) != (device, position):
                        yield replace(plan, devices=_with(rest, other, place, step))


def _without(devices: tuple[tuple[Step, ...], ...], device: int, position: int) -> tuple[tuple[Step, ...], ...]:
    steps = devices[device]
    return (*devices[:device], steps[:position] + steps[position + 1 :], *devices[device + 1 :])


def _with(
    devices: tuple[tuple[Step, ...], ...], device: int, position: int, step: Step
) -> tuple[tuple[Step, ...], ...]:
    steps = devices[device]
    return (*devices[:device], (*steps[:position], step, *steps[position:]), *devices[device + 1 :])
