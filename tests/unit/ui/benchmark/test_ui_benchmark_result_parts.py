"""The button that measures a GPU's bandwidth: when it is there, and what it does."""

from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from core.errors import EngineBusy
from core.telemetry.samples import GpuReading
from core.ui.benchmark import result_parts

measured: list[int] = []


def script():
    import streamlit as st

    from core.bench.bandwidth import BandwidthUtilisation, roofline
    from core.ui.benchmark.result_parts import offer_bandwidth

    limit = roofline(10**9, ["H100"])
    utilisation = BandwidthUtilisation(
        lane="a", decode_tok_per_s=1.0, n=1, limit=limit, gpu_names=("H100",), measured=st.session_state.known
    )
    offer_bandwidth([utilisation], key="b")


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with an H100 as its second GPU."""
    gpus = (GpuReading(index=0, name="L4"), GpuReading(index=1, name="H100"))
    fake = SimpleNamespace(
        sampler=lambda: SimpleNamespace(samples=lambda: (SimpleNamespace(gpus=gpus),)),
        settings=lambda: None,
    )
    monkeypatch.setattr(result_parts, "resources", fake)
    measured.clear()
    monkeypatch.setattr(
        result_parts, "measure_bandwidth", lambda _settings, gpu_index: measured.append(gpu_index)
    )
    return fake


def app(*, known=None):
    app = AppTest.from_function(script)
    app.session_state.known = known
    return app.run()


def test_the_gpu_of_that_name_is_measured():
    app().button(key="b").click().run()
    assert measured == [1]


def test_nothing_is_offered_that_is_known_or_not_here(machine):
    assert not app(known=object()).button
    machine.sampler = lambda: SimpleNamespace(samples=lambda: ())
    assert not app().button


def test_a_refusal_is_told(monkeypatch):
    def busy(_settings, gpu_index):
        raise EngineBusy("GPU 1 is busy", hint="Later.", code="gpu-busy")

    monkeypatch.setattr(result_parts, "measure_bandwidth", busy)
    shown = app().button(key="b").click().run()
    assert "GPU 1 is busy" in shown.error[0].value
