"""A device's worker process: three lanes, the arena, and the shards of every job.

parent --orders--> main thread --> h2d lane      host store -> arena
                               --> compute lane  units on views of the arena
                               --> d2h lane      arena -> host store
       <--done----------------------- lanes
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

import torch

from executor.chaos import Chaos
from executor.evaluation import Score
from executor.host_store import StoreView
from executor.lanes import Completions, LaneThread, Reporter
from executor.messages import Addition, Broken, Order, Setup, Skip, Used
from executor.process import ending_with_parent, send_or_leave, serve
from executor.transfer import Transfers
from executor.units import Units
from hydrasim.command import Kind, Lane
from hydrasim.errors import told


class Run:
    """One run on this device: from its setup until the parent ends it."""

    def __init__(self, setup: Setup, store: StoreView, link_fd: int | None, connection: Connection) -> None:
        memory = setup.device.open(setup.arena_bytes, setup.working_bytes, link_fd)
        memory.register_host(store.tensor(0, store.nbytes), store.allocated_bytes)
        chaos = None if setup.chaos_seed is None else Chaos(setup.chaos_seed, memory)
        specs: dict[object, object] = {}
        self._memory, self._store = memory, store
        self._units = Units(setup, store, memory, specs)
        self._transfers = Transfers(store, memory, specs, chaos)
        self._completions = Completions()
        self._chaos = chaos
        self._reporter = Reporter(partial(send_or_leave, connection))
        self._skipped: set[int] = set()
        self._failed: set[str] = set()  # jobs
        self._lanes = {
            lane: LaneThread(lane.value, self._execute, self._reporter.report, self._completions, self._skipped)
            for lane in (Lane.H2D, Lane.COMPUTE, Lane.D2H)
        }
        self._began_core_s = time.process_time()
        for thread in (self._reporter, *self._lanes.values()):
            thread.start()

    def handle(self, message: tuple[list[Order], list[int]] | Addition | Skip) -> None:
        """Queue orders, and take note of commands that other processes have done; or do as else is told."""
        if isinstance(message, Addition):
            self._add(message)
            return
        if isinstance(message, Skip):
            self._skipped.update(message.numbers)
            return
        orders, numbers = message
        self.done_elsewhere(numbers)
        self.submit(orders)

    def submit(self, orders: list[Order]) -> None:
        for order in orders:
            for number in order.foreign:
                self._completions.expect(number)
            waits = self._completions.events(order.after + order.foreign)
            self._completions.expect(order.command.number)
            self._lanes[order.command.lane].submit(order, waits)

    def done_elsewhere(self, numbers: list[int]) -> None:
        for number in numbers:
            self._completions.done(number)

    def _add(self, addition: Addition) -> None:
        try:
            self._store.places.update(addition.places)
            self._memory.lower_budget(addition.constant_bytes)
            self._units.add(addition.job)
        except Exception as error:
            text = f"job {addition.job.name!r} could not be set up: {told(error)}"
            self._reporter.report(Broken(-1, "addition", text, traceback.format_exc()))

    def close(self) -> Used:
        """End the lanes and give the device's memory back; return what the run took."""
        for thread in self._lanes.values():
            thread.stop()
        for thread in self._lanes.values():
            thread.join()
        self._reporter.stop()
        self._reporter.join()
        core_s = {"units": self._lanes[Lane.COMPUTE].core_s}
        core_s["copies"] = self._lanes[Lane.H2D].core_s + self._lanes[Lane.D2H].core_s
        core_s["rest"] = time.process_time() - self._began_core_s - sum(core_s.values())
        self._lanes.clear()
        del self._units, self._transfers, self._store
        gc.collect()  # modules and optimizers refer to each other, and to the arena
        peak_bytes = self._memory.peak_bytes
        self._memory.close()
        return Used(peak_bytes, core_s)

    def _execute(self, order: Order) -> float | Score | None:
        """Carry out a command; of a job one of whose commands has failed here, nothing more."""
        if order.command.owner in self._failed:
            return None
        try:
            return self._carry_out(order)
        except BaseException:
            self._failed.add(order.command.owner)
            raise

    def _carry_out(self, order: Order) -> float | Score | None:
        self._store.write_doing(order.command)
        if self._chaos is not None:
            self._chaos.before(order.command)
        if order.command.kind is Kind.COMPUTE:
            return self._units.run(order.command)
        if order.command.kind is Kind.LOAD:
            self._transfers.load(order)
        else:
            self._transfers.store(order)
        return None


def begin(setup: Setup, connection: Connection, received: Callable[[], int]) -> Run:
    """Map the host store, and make a run of a setup."""
    store_fd = received()
    link_fd = received() if setup.has_link else None
    store = StoreView(store_fd, setup.store_bytes, setup.places)
    store.populate()
    return Run(setup, store, link_fd, connection)


def main() -> None:
    """Serve runs until the parent hangs up."""
    sys.setswitchinterval(0.0005)  # lanes are threads; none may hold the interpreter for long
    importlib.import_module("torch._dynamo")  # a dispatch mode imports it when first used: a second in the first unit
    gc.freeze()  # the collection after each run need not look at all that importing torch made
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    serve(begin)


if __name__ == "__main__":
    with ending_with_parent():
        main()
