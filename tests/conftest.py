"""Hypothesis profiles: few, repeatable examples by default; HYPOTHESIS_PROFILE=nightly looks much further."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True)
settings.register_profile(
    "nightly",
    max_examples=2000,
    deadline=None,
    print_blob=True,
    database=None,  # earlier failures would come first, and the seed would not tell which worlds were tried
    suppress_health_check=list(HealthCheck),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
