"""What no plan can beat, and plans that are proven to be the best, or nearly."""

from hydrasim.optimum.bounds import lower_bounds
from hydrasim.optimum.solution import SOLVERS, TIME_LIMITS_S, Optimum, SolverName, find_optimum

__all__ = ["SOLVERS", "TIME_LIMITS_S", "Optimum", "SolverName", "find_optimum", "lower_bounds"]
