"""Tests that load an engine library or start a real engine, on the CPU."""

import os
from pathlib import Path

import pytest

# For this process and the engines it starts: browser tests take the other cores, and waiting threads spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("engine")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(600))
