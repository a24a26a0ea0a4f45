"""Hypothesis without deadlines (the first example pays for loading kernels), few examples each: epochs are many inside."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("operators", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("operators")
