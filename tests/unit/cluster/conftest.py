"""A home with the cluster's process of `agents_process.py`, and its engines behind one face."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.cluster.control import ClusterEngines
from core.cluster.link import ClusterLink, find_process
from core.domain.specs import ClusterSpec
from core.engines.manager import EngineManager
from tests.unit.engines.engine_stand_ins import gone, lane_in, rows, settings_in, wait_for

PROCESS = (sys.executable, str(Path(__file__).parent / "agents_process.py"))
SPEC = ClusterSpec(address="auto")


@pytest.fixture
def settings(tmp_path):
    return settings_in(tmp_path, end_engines_after="5")


@pytest.fixture
def lanes(tmp_path):
    return (lane_in(tmp_path, "here"), replace(lane_in(tmp_path, "there"), node="beta"))


@pytest.fixture
def make(settings, lanes):
    made = []

    def make(*, spec=SPEC, **more):
        table = more.pop("rows", rows())
        here = EngineManager(settings, lanes, rows=table, grace_s=1.0)
        link = ClusterLink(settings, spec, command=PROCESS)
        made.append(ClusterEngines(settings, lanes, here, link, rows=table, **more))
        link.await_reports()
        return made[-1]

    yield make
    for engines in made:
        engines.close()
    if process := find_process(settings):
        os.kill(process.process.pid, signal.SIGTERM)
        wait_for(lambda: gone(process.process.pid))
