"""A home with the cluster's process of `agents_process.py`, and its engines behind one face.

The tests of a module share the home and its process; who changes either takes `own_settings`.
"""

import os
import shutil
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from core.cluster import link as link_module
from core.cluster.control import ClusterEngines
from core.cluster.link import ClusterLink, find_process
from core.domain.specs import ClusterSpec
from core.engines.manager import EngineManager
from tests.unit.engines.engine_stand_ins import gone, lane_in, rows, settings_in, wait_for

PROCESS = (sys.executable, str(Path(__file__).parent / "agents_process.py"))
SPEC = ClusterSpec(address="auto")


@pytest.fixture(autouse=True)
def quick_link(monkeypatch):
    monkeypatch.setattr(link_module, "_LOOK_S", 0.1)
    monkeypatch.setattr(link_module, "_BACK_OFF_S", (0.1,))


@contextmanager
def home_in(folder):
    """Settings of a home whose cluster's process, if one was started, ends with the block."""
    settings = settings_in(folder, end_engines_after="5")
    yield settings
    if whereabouts := find_process(settings):
        os.kill(whereabouts.process.pid, signal.SIGTERM)
        wait_for(lambda: gone(whereabouts.process.pid))
        shutil.rmtree(Path(whereabouts.address).parent, ignore_errors=True)


def lanes_in(folder):
    return lane_in(folder, "here"), replace(lane_in(folder, "there"), node="beta")


@contextmanager
def making(settings):
    """A function that makes engines of the home, which end with the block."""
    lanes = lanes_in(settings.home)
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


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    with home_in(tmp_path_factory.mktemp("home")) as settings:
        yield settings


@pytest.fixture(scope="module")
def lanes(settings):
    return lanes_in(settings.home)


@pytest.fixture
def make(settings):
    with making(settings) as make:
        yield make


@pytest.fixture
def own_settings(tmp_path):
    """A home of the test's own, in which nothing runs."""
    with home_in(tmp_path) as settings:
        yield settings
