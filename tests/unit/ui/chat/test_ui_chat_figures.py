from dataclasses import replace

from core.domain.specs import EndpointSpec, EngineKind, LaneSpec
from core.domain.timing import Timing
from core.domain.turns import FinishReason, Phase, RequestRecord
from core.ui.chat.figures import Standing, standings, summary


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
