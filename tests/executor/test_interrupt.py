"""Ctrl-C is told of once; the second one is Python's own."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from executor.interrupt import Interrupt


def test_the_first_is_told_of_and_the_second_raises():
    interrupt = Interrupt()
    with interrupt.awaited():
        assert not interrupt.reader.poll()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.reader.recv_bytes() == b"!"
        assert interrupt.happened
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_users_own_stays():
    calls: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: calls.append(number))
    try:
        interrupt = Interrupt()
        with interrupt.awaited():
            os.kill(os.getpid(), signal.SIGINT)
        assert calls == [signal.SIGINT]
        assert not interrupt.happened
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_it_to_the_main_one():
    found: list[object] = []

    def run() -> None:
        with Interrupt().awaited():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
