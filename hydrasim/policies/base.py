"""What every policy is: a frozen dataclass with one pure method."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from hydrasim.plan import Plan
    from hydrasim.view import View
    from hydrasim.workload import ShardUnit


class Policy(ABC):
    """Decides which unit a device runs next.

    Subclass it as a frozen dataclass in a file of its own; the class name, in kebab case, becomes the
    name on the command line unless `registered_name` says otherwise. Fields need defaults.

    work_conserving: the policy never leaves a device idle on purpose while there is a unit for it; False
    for those that hold devices back by design. Comparisons read it, to tell what the choice among units
    is worth from what idling costs; it changes nothing in a run.
    """

    registered_name: ClassVar[str] = ""
    work_conserving: ClassVar[bool] = True
    plan: ClassVar[Plan | None] = None  # only following a plan sets it

    @abstractmethod
    def choose(self, device: int, view: View) -> ShardUnit | None:
        """Return one of `view.eligible(device)`, which is not empty, or None to be asked again later.

        Must not change anything and must draw randomness from `view.rng` alone.
        """

    @property
    def name(self) -> str:
        return self.name_of(type(self))

    @staticmethod
    def name_of(policy: type[Policy]) -> str:
        """Return the name under which a policy class is known."""
        return policy.registered_name or re.sub(r"(?<=[a-z])(?=[A-Z])", "-", policy.__name__).lower()
