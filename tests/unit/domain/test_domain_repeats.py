from dataclasses import replace

from core.domain.conversation import Sampling
from core.domain.fairness import Spread, comparable, repeats
from core.domain.specs import EngineKind, LaneSpec
from core.domain.timing import Timing
from core.domain.turns import FinishReason, Mode, Phase, RequestRecord, TurnRecord, utc_now

HF = LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS)
AWQ = LaneSpec(name="awq", kind=EngineKind.AWQ)


def record(lane, ttft_ms, *, tokens=3, finish=FinishReason.STOP):
    chunks = tuple(int((ttft_ms + 10 * place) * 1e6) for place in range(tokens))
    return RequestRecord(
        id=f"{lane.name}{ttft_ms}",
        turn_id="t",
        lane=lane,
        messages=(),
        phase=Phase.DONE,
        finish_reason=finish,
        timing=Timing(sent_ns=0, chunk_ns=chunks, content_chars=(1,) * tokens, output_tokens=tokens),
    )


def turn(*records, prompt="Hi", **changes):
    kept = TurnRecord(
        id="t",
        conversation_id="c",
        created_at=utc_now(),
        prompt=prompt,
        system_prompt="",
        mode=Mode.TOGETHER,
        sampling=Sampling(),
        requests=records,
    )
    return replace(kept, **changes)


def test_each_lane_has_median_and_range_of_its_own_runs():
    runs = [turn(record(HF, ttft), record(AWQ, ttft * 2)) for ttft in (50, 60, 40)]
    hf, awq = repeats(runs)
    assert (hf.lane, awq.lane) == ("hf", "awq")
    assert (hf.ttft_s.n, hf.ttft_s.median) == (3, 0.05)
    assert (round(hf.ttft_s.low, 6), round(hf.ttft_s.high, 6)) == (0.04, 0.06)
    assert awq.ttft_s.median == 0.1
    assert round(hf.decode_tok_per_s.median) == 100


def test_failed_and_stopped_runs_are_left_out():
    failed = record(HF, 900, finish=FinishReason.ERROR)
    stopped = record(HF, 1, finish=FinishReason.CANCELLED)
    (hf,) = repeats([turn(failed), turn(stopped), turn(record(HF, 50))])
    assert hf.ttft_s == Spread(1, 0.05, 0.05, 0.05)


def test_a_figure_that_no_run_has_is_unknown():
    (hf,) = repeats([turn(record(HF, 50, tokens=1))] * 2)
    assert hf.decode_tok_per_s is None
    assert hf.ttft_s.n == 2


def test_a_lane_with_other_settings_is_another_lane():
    other = replace(HF, settings=replace(HF.settings, dtype="float32"))
    (hf,) = repeats([turn(record(other, 90)), turn(record(HF, 50))])
    assert hf.ttft_s.n == 1


def test_only_runs_of_the_same_prompt_in_the_same_way_are_comparable():
    last = turn(record(HF, 50))
    others = [
        replace(last, prompt="Hello"),
        replace(last, mode=Mode.ONE_AFTER_ANOTHER),
        replace(last, sampling=Sampling(temperature=1.0)),
        replace(last, system_prompt="Be brief."),
    ]
    assert comparable([*others, last, last]) == [last, last]
    assert comparable([]) == []
    assert repeats([]) == []
