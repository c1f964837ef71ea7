"""One race: all contenders on one task, checked first, then run in turn, ours beside each of the others.

round 0   ours  a  b  ours  c  d  ours  e       a and b lie beside an ours of their own, b and c share one
round 1   ours  b  c  ours  d  e  ours  a       so nobody always comes first or last
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.peers.contender import Losses, Options, Run, Task
from experiments.peers.losses import largest_difference, objection
from experiments.peers.registry import OURS, find_contender, missing_packages
from experiments.peers.team import Limits, PeerFailed, Team

Say = Callable[[str], None]
_LEAST_TRIAL_MINIBATCHES = 2  # of each job and variant, after one that warms up; else half of a timed run


@dataclass
class Entry:
    """A contender in a race. trial: its variants, with what they took; options: the one that was chosen.

    memory_bytes: the fullest rank's, None if it does not know. dropped: why it does not take part, or not to the end.
    """

    name: str
    options: Options = field(default_factory=dict)
    trial: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    memory_bytes: int | None = None
    loss_difference: float | None = None
    seconds: list[float] = field(default_factory=list)
    core_s: list[Mapping[str, float]] = field(default_factory=list)  # of each run, CPU seconds by what took them
    pairs: list[tuple[float, float]] = field(default_factory=list)  # of ours and of this one
    dropped: str = ""


def lineup(rivals: Sequence[str], number: int) -> list[str]:
    """Return who runs in the round of that number, in which order: ours on one side of each rival."""
    start = number % max(1, len(rivals))
    line = [OURS]
    for index, name in enumerate([*rivals[start:], *rivals[:start]]):
        line += [name, OURS] if index % 2 else [name]
    return line


def partners(line: Sequence[str]) -> dict[int, int]:
    """Return where the ours beside each rival of a line is, by the rival's place; the one before it comes first."""
    return {
        place: place - 1 if line[place - 1] == OURS else place + 1 for place, name in enumerate(line) if name != OURS
    }


def heats(rivals: Sequence[str], most: int | None) -> list[Sequence[str]]:
    """Deal rivals out to races of at most so many, ours being in each; None for all in one."""
    size = max(1, len(rivals) if most is None else most)
    return [rivals[start : start + size] for start in range(0, max(1, len(rivals)), size)]


def joined(entries: Mapping[str, Entry], more: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return the entries of two heats; what ours took in the second follows what it took in the first."""
    found = {**entries, **more}
    for name in entries.keys() & more.keys():
        earlier, later = entries[name], more[name]
        seconds, core_s = earlier.seconds + later.seconds, earlier.core_s + later.core_s
        found[name] = replace(later, seconds=seconds, core_s=core_s)
    return found


class Race:
    """All contenders on one task. Use it as a context manager; leaving it ends all their processes."""

    def __init__(self, task: Task, rivals: Sequence[str], *, limits: Limits, say: Say) -> None:
        self.task, self.entries = task, {name: Entry(name) for name in (OURS, *rivals)}
        self._limits, self._say = limits, say
        self._teams: dict[str, Team] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def running(self) -> list[str]:
        """The rivals that are still in it."""
        return [name for name, entry in self.entries.items() if name != OURS and not entry.dropped]

    def check(self) -> None:
        """Start everybody, choose their variants, and hold their losses against the reference's; drop who differs.

        Raises:
            PeerFailed: the reference or ours failed, or ours does not train what the reference trains.
        """
        reference = self._reference()
        for name, entry in self.entries.items():
            try:
                self._admit(entry, reference)
            except PeerFailed as reason:
                if name == OURS:
                    raise
                self._drop(entry, str(reason))
            else:
                self._say(f"{name}: {_told(entry.options)}losses within {entry.loss_difference:.1e} of the reference's")

    def run_round(self, number: int) -> None:
        """Run everybody who is still in it once, and ours as often as needed to be beside each.

        Raises:
            PeerFailed: ours failed.
        """
        line = lineup(self.running, number)
        seconds: dict[int, float] = {}
        for place, name in enumerate(line):
            entry = self.entries[name]
            if entry.dropped:
                continue
            try:
                run = self._teams[name].run(self.task.workload.minibatches)
            except PeerFailed as reason:
                if name == OURS:
                    raise
                self._drop(entry, f"in round {number}: {reason}")
                continue
            seconds[place] = _seconds(run)
            entry.seconds.append(seconds[place])
            entry.core_s.append(run.core_s)
            rate = self.task.workload.num_tokens / seconds[place]
            self._say(f"round {number}: {name} {seconds[place]:.2f} s, {rate:,.0f} tokens/s")
        for place, beside in partners(line).items():
            if place in seconds and beside in seconds:
                self.entries[line[place]].pairs.append((seconds[beside], seconds[place]))

    def end(self) -> None:
        """Ask those that are still in it for their facts again, which by now are of timed runs."""
        for name in [OURS, *self.running]:
            self.entries[name].facts = self._teams[name].facts()

    def _reference(self) -> Losses:
        """Return the losses of the reference loop: the ideal, in a single process."""
        with Team("ideal", self.task, num_ranks=1, limits=self._limits) as team:
            team.begin({})
            return team.run(self._checked(self.task.workload.num_checked), is_first=True).losses

    def _admit(self, entry: Entry, reference: Losses) -> None:
        """Start a contender and have it train the checked mini-batches, which warm it up.

        Raises:
            PeerFailed: it cannot take part.
        """
        if missing := missing_packages(entry.name):
            raise PeerFailed(f"it needs {', '.join(missing)}, not installed here; pip install 'hydrasim[rivals]'.")
        contender = find_contender(entry.name)
        variants = contender.offers(self.task.optimizer)
        if len(variants) > 1:
            entry.trial = [self._try(entry.name, variant) for variant in variants]
        entry.options = self._chosen(entry, variants, within_budget=contender.within_budget)
        team = self._stack.enter_context(Team(entry.name, self.task, limits=self._limits))
        team.begin(entry.options)
        run = team.run(self._checked(self.task.workload.num_checked), is_first=True)
        entry.loss_difference = largest_difference(run.losses, reference)
        if wrong := objection(entry.loss_difference, exact=contender.exact):
            team.close()
            raise PeerFailed(wrong)
        entry.memory_bytes = team.memory_bytes()
        entry.facts = team.facts()
        self._teams[entry.name] = team

    def _try(self, name: str, variant: Options) -> dict[str, Any]:
        """Time a variant, in processes of its own, since some leave most of their memory behind."""
        counts = self.task.workload.minibatches.items()
        with Team(name, self.task, limits=self._limits) as team:
            team.begin(variant)
            team.run(self._checked(1), is_first=True)
            run = team.run({job: max(_LEAST_TRIAL_MINIBATCHES, count // 2) for job, count in counts})
            tried = {"options": dict(variant), "seconds": _seconds(run), "memory_bytes": team.memory_bytes()}
        self._say(f"{name}: {_told(variant)}{tried['seconds']:.2f} s in the trial")
        return tried

    def _chosen(self, entry: Entry, variants: Sequence[Options], *, within_budget: bool) -> Options:
        """Return the fastest variant of the trial, of those that may be chosen; the leanest if none may."""
        if not entry.trial:
            return variants[0]
        allowed = entry.trial
        if within_budget:
            room = self.entries[OURS].memory_bytes
            allowed = [tried for tried in entry.trial if room is None or (tried["memory_bytes"] or 0) <= room]
            allowed = allowed or [min(entry.trial, key=lambda tried: tried["memory_bytes"])]
        options: Options = min(allowed, key=lambda tried: tried["seconds"])["options"]
        return options

    def _checked(self, count: int) -> Mapping[str, int]:
        return dict.fromkeys(self.task.workload.minibatches, count)

    def _drop(self, entry: Entry, reason: str) -> None:
        entry.dropped = reason
        self._say(f"{entry.name} is out: {reason}")


def _seconds(run: Run) -> float:
    return run.end_s - run.begin_s


def _told(options: Options) -> str:
    return "".join(f"{name} {value}, " for name, value in options.items())
