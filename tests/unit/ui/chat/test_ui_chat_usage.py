"""The popover with memory and energy, drawn by Streamlit's own test runner."""

from streamlit.testing.v1 import AppTest


def script():
    from core.domain.specs import EngineKind, LaneSpec
    from core.domain.timing import Timing
    from core.domain.turns import RequestRecord, UsageWindow
    from core.ui.chat.figures import usage_control

    usage_control(
        RequestRecord(
            id="r",
            turn_id="t",
            lane=LaneSpec(name="awq", kind=EngineKind.AWQ),
            messages=(),
            timing=Timing(sent_ns=0, output_tokens=100),
            window=UsageWindow(
                duration_s=0.5,
                energy_j=75.0,
                idle_power_w=100.0,
                mean_power_w=150.0,
                peak_gpu_bytes=2**31,
                others=("hf",),
            ),
        )
    )


def without_window():
    from core.domain.specs import EngineKind, LaneSpec
    from core.domain.turns import RequestRecord
    from core.ui.chat.figures import usage_control

    lane = LaneSpec(name="awq", kind=EngineKind.AWQ)
    usage_control(RequestRecord(id="r", turn_id="t", lane=lane, messages=()))


def test_energy_with_idle_power_beside_it_and_subtracted_only_on_request():
    app = AppTest.from_function(script).run()
    assert "Energy: **75 J**" in app.markdown[0].value
    assert "Energy per output token: **0.75 J**" in app.markdown[0].value
    assert "Idle power: **100 W**" in app.markdown[0].value
    app.toggle[0].set_value(True).run()
    assert "Energy: **25 J**" in app.markdown[0].value
    assert "Energy per output token: **0.25 J**" in app.markdown[0].value


def test_a_shared_window_says_with_whom():
    assert "hf" in AppTest.from_function(script).run().caption[0].value


def test_unknown_figures_are_dashes():
    assert "Peak resident memory: **–**" in AppTest.from_function(script).run().markdown[0].value


def test_an_answer_without_a_window_shows_nothing():
    app = AppTest.from_function(without_window).run()
    assert not app.markdown
    assert not app.exception
