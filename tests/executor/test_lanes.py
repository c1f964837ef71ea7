"""A lane keeps its order, and holds its place while it waits."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from executor.lanes import Completions, LaneThread, Reporter
from executor.messages import Broken, Done, Order
from hydrasim.command import Command, Kind, Lane
from hydrasim.workload import ShardUnit


def order(number):
    return Order(Command(number, Kind.COMPUTE, 0, Lane.COMPUTE, ShardUnit.parse(f"A/F0#{number}")))


def lane_of(execute, completions=None):
    reports = SimpleQueue()
    lane = LaneThread("compute", execute, reports.put, completions or Completions())
    lane.start()
    return lane, reports


def test_commands_end_in_the_order_they_came():
    lane, reports = lane_of(lambda order: float(order.command.number))
    for number in range(3):
        lane.submit(order(number), [])
    lane.stop()
    lane.join()
    done = [reports.get_nowait() for _ in range(3)]
    assert [(report.number, report.result) for report in done] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert all(a.end_s <= b.start_s for a, b in zip(done, done[1:], strict=False))


def test_the_head_waits_and_those_behind_it_too():
    ran, gate = [], threading.Event()
    lane, _ = lane_of(lambda order: ran.append(order.command.number))
    lane.submit(order(1), [gate])
    lane.submit(order(2), [])
    lane.stop()
    lane.join(0.05)
    assert lane.is_alive()
    assert ran == []
    gate.set()
    lane.join()
    assert ran == [1, 2]


def test_a_failure_is_reported_with_its_trace_and_the_lane_goes_on():
    def fail(order):
        if order.command.number == 5:
            raise SystemExit("enough")  # whatever a user's layer may raise

    lane, reports = lane_of(fail)
    lane.submit(order(5), [])
    lane.submit(order(6), [])
    lane.stop()
    lane.join()
    broken, done = reports.get_nowait(), reports.get_nowait()
    assert isinstance(broken, Broken)
    assert (broken.number, broken.kind, broken.text) == (5, "compute", "SystemExit: enough")
    assert "in fail" in broken.trace
    assert isinstance(done, Done)
    assert done.number == 6


def test_a_report_comes_after_the_completion():
    completions, seen = Completions(), []
    completions.expect(3)
    lane = LaneThread(
        "compute", lambda _: None, lambda report: seen.append((report, completions.events((3,)))), completions
    )
    lane.start()
    lane.submit(order(3), [])
    lane.stop()
    lane.join()
    assert isinstance(seen[0][0], Done)
    assert seen[0][1] == []


def test_only_pending_commands_are_waited_for():
    completions = Completions()
    completions.expect(1)
    completions.expect(1)
    assert len(completions.events((0, 1))) == 1
    (event,) = completions.events((1,))
    completions.done(1)
    completions.done(1)
    assert event.is_set()
    assert completions.events((0, 1)) == []


def test_the_reporter_sends_everything_in_order_and_what_piled_up_together():
    sent, first_is_out, may_go_on = [], threading.Event(), threading.Event()

    def send(messages: list[Done | Broken]) -> None:
        sent.append([message.number for message in messages])
        first_is_out.set()
        may_go_on.wait()

    reporter = Reporter(send)
    reporter.start()
    reporter.report(Done(0, 0.0, 1.0))
    first_is_out.wait()
    for number in (1, 2, 3):
        reporter.report(Done(number, 0.0, 1.0))
    reporter.stop()
    may_go_on.set()
    reporter.join()
    assert sent == [[0], [1, 2, 3]]
