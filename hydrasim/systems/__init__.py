"""Rival training systems, simulated in the same world at the same costs; one file each."""

from hydrasim.systems.base import Build, System
from hydrasim.systems.registry import make_system, systems
from hydrasim.systems.run import simulate_system

__all__ = ["Build", "System", "make_system", "simulate_system", "systems"]
