"""Why a unit ran where and when it did: what it was chosen from, and the chain of what held it up."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hydrasim.command import HOST, Kind
from hydrasim.errors import TimelineError
from hydrasim.policies.follow_plan import FollowPlan

if TYPE_CHECKING:
    from hydrasim.timeline import Span, Timeline

Cause = Literal["data", "lane", "decision"]
_CHAIN_LENGTH = 6  # links of the chain that are told
_UNIT_KINDS = {Kind.COMPUTE.value, Kind.UPDATE.value}
_NUM_COMPARED = 10_000  # spellings looked at for a unit that is not there; more would take seconds


@dataclass(frozen=True)
class Reason:
    """Something that had to end before a span could start.

    cause: "data", a command that it followed; "lane", the command before it on its lane; "decision", the
    unit's end that made the policy choose it. waited_s: how long its lane stood empty for it.
    """

    span: Span
    cause: Cause
    waited_s: float


@dataclass(frozen=True)
class Explanation:
    """A unit's compute or update span, all that it waited for, latest first, and the critical chain behind it.

    label, policy: what run it was; planned: it followed a plan, which leaves a device one unit to choose.
    """

    span: Span
    waited_for: tuple[Reason, ...]
    chain: tuple[Reason, ...]
    label: str
    policy: str
    planned: bool = False

    def text(self) -> str:
        """Return the explanation in sentences, a few lines long."""
        span = self.span
        where = "the host" if span.device == HOST else f"device {span.device}"
        if span.kind == Kind.UPDATE.value and span.device != HOST:
            where = f"the host for {where}"
        lines = [
            f"{span.unit} ran on {where} from {span.start_s:.6g} s to {span.end_s:.6g} s "
            f"({span.duration_s:.6g} s), {self.label} under {self.policy}.",
            f"Chosen from: {', '.join(span.eligible) or 'not recorded'}{' (as planned)' if self.planned else ''}.",
            "It had to wait for:" if self.waited_for else "It had to wait for nothing.",
        ]
        lines += [f"  {name_of(r.span)}, over at {r.span.end_s:.6g} s ({_ROLES[r.cause]})" for r in self.waited_for]
        if self.chain:
            lines.append("Why not earlier:")
            lines += [f"  {line}" for line in self._story()]
        return "\n".join(lines)

    def _story(self) -> list[str]:
        lines, subject = [], self.span.unit
        for depth, reason in enumerate(self.chain):
            name = f"{name_of(reason.span)} ({reason.span.start_s:.6g} s to {reason.span.end_s:.6g} s)"
            told = {
                "data": f"waited {reason.waited_s:.6g} s for" if reason.waited_s else "followed at once on",
                "lane": "queued behind",
                "decision": f"was chosen {reason.waited_s:.6g} s after its lane fell empty, at the end of",
            }[reason.cause]
            lines.append(f"{'  ' * depth}{subject} {told} {name}" + ("," if reason is not self.chain[-1] else "."))
            subject = "which"
        return lines


_ROLES: dict[Cause, str] = {"data": "its data or memory", "lane": "its lane", "decision": "the choice"}


class WaitGraph:
    """What each span of a timeline waited for, by span number; built once for many questions."""

    def __init__(self, timeline: Timeline) -> None:
        self._by_number = {span.number: span for span in timeline.spans}
        self._before: dict[int, Span] = {}
        last: dict[tuple[int | str, str], Span] = {}
        for span in sorted(timeline.spans, key=lambda span: span.number):
            if span.lane_key in last:
                self._before[span.number] = last[span.lane_key]
            last[span.lane_key] = span
        computes = (span for span in timeline.spans if span.kind == Kind.COMPUTE.value)
        self._computes = sorted(computes, key=lambda span: (span.end_s, -span.number))
        self._ends_s = [span.end_s for span in self._computes]

    def followed(self, span: Span) -> list[Span]:
        """Return the commands whose results or memory the span needed."""
        return [self._by_number[number] for number in span.after if number in self._by_number]

    def reasons(self, span: Span) -> tuple[Reason, ...]:
        """Return everything that the span waited for, the latest first; equal ends put the lane first."""
        before = self._before.get(span.number)
        free_s = before.end_s if before is not None else 0.0
        found = [Reason(other, "data", max(0.0, other.end_s - free_s)) for other in self.followed(span)]
        if before is not None:
            found = [Reason(before, "lane", 0.0), *(reason for reason in found if reason.span is not before)]
        latest_s = max((reason.span.end_s for reason in found), default=0.0)
        if span.start_s > latest_s and (choice := self._choice(span, latest_s)) is not None:
            found.append(Reason(choice, "decision", max(0.0, choice.end_s - free_s)))
        return tuple(sorted(found, key=lambda reason: -reason.span.end_s))

    def chain(self, span: Span, length: int = _CHAIN_LENGTH) -> tuple[Reason, ...]:
        """Return the latest reason of the span, that reason's latest reason, and so on."""
        links: list[Reason] = []
        while len(links) < length and (reasons := self.reasons(span)):
            links.append(reasons[0])
            span = reasons[0].span
        return tuple(links)

    def _choice(self, span: Span, after_s: float) -> Span | None:
        """Return the compute at whose end the policy must have chosen a span that could have begun before."""
        index = bisect_right(self._ends_s, span.start_s) - 1
        return self._computes[index] if index >= 0 and self._ends_s[index] > after_s else None


def explain(timeline: Timeline, unit_text: str) -> Explanation:
    """Explain the unit of that name, such as `A/F0#17`.

    Raises:
        TimelineError: the timeline has no such unit; the message names the nearest ones.
    """
    spans = {span.unit: span for span in timeline.spans if span.kind in _UNIT_KINDS}
    if unit_text not in spans:
        near = _near(unit_text, list(spans))
        hint = f"did you mean {' or '.join(near)}?" if near else "write it as job/F0#17."
        raise TimelineError(f"the timeline has no unit {unit_text!r} among its {len(spans)}; {hint}")
    graph, span = WaitGraph(timeline), spans[unit_text]
    header = timeline.header
    planned = header.get("policy") == FollowPlan.name_of(FollowPlan)
    policy = header.get("planned_by") or header.get("policy", "an unnamed policy")
    label = header.get("label", "unlabelled")
    return Explanation(span, graph.reasons(span), graph.chain(span), label, policy, planned)


def name_of(span: Span) -> str:
    """Name a command and its lane in a few words."""
    where = span.lane if span.device == HOST else f"{span.lane}:{span.device}"
    target = "" if span.peer == HOST else f" to device {span.peer}"
    return f"{span.kind} {span.block or span.unit} on {where}{target}"


def _near(text: str, units: list[str]) -> list[str]:
    """Return up to three units spelt like the text; those that share its head or tail are looked at first."""
    from difflib import get_close_matches

    head, _, tail = text.partition("#")
    alike = [unit for unit in units if unit.partition("#")[0] == head or unit.partition("#")[2] == tail]
    return get_close_matches(text, (alike or units)[:_NUM_COMPARED], n=3, cutoff=0.5)
