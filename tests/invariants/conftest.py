"""Writes down what the invariants were tried on, into the folder that INVARIANTS_RESULTS names; else does nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.invariants.record import DRAWN, Record


def pytest_configure(config: pytest.Config) -> None:
    if folder := os.environ.get("INVARIANTS_RESULTS"):
        config.pluginmanager.register(Recorder(Path(folder), str(config.getoption("--hypothesis-seed"))))


class Recorder:
    """A plugin that counts the worlds of each test."""

    def __init__(self, folder: Path, seed: str) -> None:
        self._folder, self._began_s = folder, time.monotonic()
        profile = os.environ.get("HYPOTHESIS_PROFILE", "ci")
        stated = {"profile": profile, "max_examples": settings.default.max_examples, "seed": seed}
        self._record = Record(f"make nightly SEED={seed}" if profile == "nightly" else "pytest", stated)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        before, passed = DRAWN["worlds", ""], False
        try:
            yield
            passed = True
        finally:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                self._record.add(f"{item.path.name}::{item.name}", DRAWN["worlds", ""] - before, passed)

    def pytest_sessionfinish(self) -> None:
        self._record.duration_s = time.monotonic() - self._began_s
        self._record.write(self._folder, DRAWN)
