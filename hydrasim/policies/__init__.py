"""One policy a file; a new file here is found by itself."""

from hydrasim.policies.base import Policy
from hydrasim.policies.registry import load_policy, make_policy, policies

__all__ = ["Policy", "load_policy", "make_policy", "policies"]
