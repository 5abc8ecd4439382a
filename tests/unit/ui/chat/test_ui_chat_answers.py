from dataclasses import replace

from streamlit.testing.v1 import AppTest

from core.domain.specs import EndpointSpec, EngineKind, LaneSpec
from core.domain.timing import Timing
from core.domain.turns import FinishReason, Phase, RequestRecord
from core.ui.chat.answers import Standing, standings, summary


def record(name: str, *, ttft_ms: int = 50, tpot_ms: int = 10, tokens: int | None = 5) -> RequestRecord:
    timestamps = tuple((ttft_ms + place * tpot_ms) * 1_000_000 for place in range(5))
    return RequestRecord(
        id=name,
        turn_id="t",
        lane=LaneSpec(name=name, kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://host/v1")),
        messages=(),
        phase=Phase.DONE,
        finish_reason=FinishReason.STOP,
        prompt_tokens=1234,
        timing=Timing(sent_ns=0, chunk_ns=timestamps, content_chars=(1,) * 5, output_tokens=tokens),
    )


def test_the_fastest_and_the_ratio_to_the_baseline():
    standing = standings([record("hf"), record("awq", ttft_ms=80, tpot_ms=5)], "hf")
    assert standing["hf"] == Standing(first_token_fastest=True, baseline="hf")
    assert standing["awq"].decode_fastest
    assert not standing["awq"].first_token_fastest
    assert standing["awq"].speed_ratio == 2.0


def test_one_lane_alone_is_not_the_fastest():
    assert standings([record("hf")], "hf")["hf"] == Standing(baseline="hf")


def test_without_a_token_count_there_is_no_decode_speed_to_compare():
    standing = standings([record("hf", tokens=None), record("awq", ttft_ms=80)], "hf")
    assert standing["awq"].speed_ratio is None
    assert not standing["awq"].decode_fastest
    assert standing["hf"].first_token_fastest


def test_a_failed_lane_is_not_compared():
    broken = replace(record("broken", ttft_ms=1), finish_reason=FinishReason.ERROR)
    standing = standings([record("hf"), record("awq", ttft_ms=80), broken], "broken")
    assert "broken" not in standing
    assert standing["hf"].first_token_fastest
    assert standing["awq"].speed_ratio is None


def test_the_summary_names_tokens_end_and_ratio():
    text = summary(record("awq"), Standing(baseline="hf", speed_ratio=1.836))
    assert text == ("1,234 tokens in · 5 out · finished · **1.84×** the decode speed of hf")


def test_unknown_counts_are_said_to_be():
    bare = replace(record("hf"), timing=None, prompt_tokens=None, finish_reason=None)
    assert summary(bare, Standing()) == "token counts unknown"


def test_cached_prompt_tokens_are_said():
    cached = replace(record("hf"), cached_tokens=1000)
    assert "1,234 tokens in (1,000 cached)" in summary(cached, Standing())


def with_window():
    from core.domain.specs import EngineKind, LaneSpec
    from core.domain.timing import Timing
    from core.domain.turns import RequestRecord, UsageWindow
    from core.ui.chat.answers import usage_control

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
    from core.ui.chat.answers import usage_control

    lane = LaneSpec(name="awq", kind=EngineKind.AWQ)
    usage_control(RequestRecord(id="r", turn_id="t", lane=lane, messages=()))


def test_energy_with_idle_power_beside_it_and_subtracted_only_on_request():
    app = AppTest.from_function(with_window).run()
    assert "Energy: **75 J**" in app.markdown[0].value
    assert "Energy per output token: **0.75 J**" in app.markdown[0].value
    assert "Idle power: **100 W**" in app.markdown[0].value
    app.toggle[0].set_value(True).run()
    assert "Energy: **25 J**" in app.markdown[0].value
    assert "Energy per output token: **0.25 J**" in app.markdown[0].value


def test_a_shared_window_says_with_whom():
    assert "hf" in AppTest.from_function(with_window).run().caption[0].value


def test_unknown_figures_are_dashes():
    assert "Peak resident memory: **–**" in AppTest.from_function(with_window).run().markdown[0].value


def test_an_answer_without_a_window_shows_nothing():
    app = AppTest.from_function(without_window).run()
    assert not app.markdown
    assert not app.exception
