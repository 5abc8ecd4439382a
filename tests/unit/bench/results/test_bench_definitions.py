import pytest

from core.bench.results.definitions import DEFINITIONS, Tool, system_tok_per_s
from tests.unit.bench.bench_samples import a_timing

PLAIN = a_timing(ttft_s=0.1, gap_s=0.01, chunks=11)
"""11 tokens, one a chunk: first at 100 ms, last at 200 ms."""


def figures(tool, timing, requested=None):
    return DEFINITIONS[tool].apply(timing, requested)


@pytest.mark.parametrize("tool", [Tool.LMDYNO, Tool.VLLM, Tool.SGLANG, Tool.LMDEPLOY, Tool.AIPERF])
def test_on_a_plain_stream_all_but_guidellm_agree(tool):
    found = figures(tool, PLAIN)
    assert found.ttft_s == pytest.approx(0.1)
    assert found.tpot_s == pytest.approx(0.01)
    assert found.e2e_s == pytest.approx(0.2)
    assert found.output_tokens == 11


def test_guidellms_time_per_output_token_holds_the_first_one():
    found = figures(Tool.GUIDELLM, PLAIN)
    assert found.tpot_s == pytest.approx(0.2 / 11)
    assert found.itl_s == pytest.approx((0.01,))


def test_vllm_starts_decoding_at_the_role_chunk():
    found = figures(Tool.VLLM, a_timing(role_first=True))
    assert found.ttft_s == pytest.approx(0.001)
    assert found.itl_s[0] == pytest.approx(0.099)
    assert len(found.itl_s) == 11
    assert found.tpot_s == pytest.approx((0.2 - 0.001) / 10)


def test_sglang_and_lmdeploy_wait_for_the_end_of_the_stream():
    timing = a_timing(tail_s=0.05)
    for tool in (Tool.SGLANG, Tool.LMDEPLOY):
        assert figures(tool, timing).e2e_s == pytest.approx(0.25)
        assert figures(tool, timing).tpot_s == pytest.approx(0.15 / 10)
    assert figures(Tool.VLLM, timing).e2e_s == pytest.approx(0.2)


def test_lmdeploy_counts_the_length_that_was_asked_for():
    assert figures(Tool.LMDEPLOY, PLAIN, 21).output_tokens == 21
    assert figures(Tool.LMDEPLOY, PLAIN, 21).tpot_s == pytest.approx(0.1 / 20)
    assert figures(Tool.VLLM, PLAIN, 21).output_tokens == 11


def test_with_several_tokens_a_chunk_only_ours_leaves_out_the_whole_first_chunk():
    timing = a_timing(chunks=11, tokens_per_chunk=4)
    assert figures(Tool.LMDYNO, timing).tpot_s == pytest.approx(0.1 / 40)
    assert figures(Tool.VLLM, timing).tpot_s == pytest.approx(0.1 / 43)
    assert figures(Tool.LMDYNO, timing).itl_s == pytest.approx((0.01 / 4,) * 10)
    assert figures(Tool.SGLANG, timing).itl_s == pytest.approx((0.01,) * 10)


@pytest.mark.parametrize("tool", Tool)
def test_one_token_has_no_time_between_tokens(tool):
    found = figures(tool, a_timing(chunks=1))
    assert not found.itl_s
    if tool is not Tool.GUIDELLM:
        assert found.tpot_s is None


def test_aiperf_takes_the_time_from_the_first_request_to_the_last_chunk():
    timings = [a_timing(sent_s=1.0), a_timing(sent_s=1.3)]
    assert system_tok_per_s(DEFINITIONS[Tool.VLLM], timings, 2.0, None) == pytest.approx(22 / 2)
    assert system_tok_per_s(DEFINITIONS[Tool.AIPERF], timings, 2.0, None) == pytest.approx(22 / 0.5)
    assert system_tok_per_s(DEFINITIONS[Tool.VLLM], [], 2.0, None) is None


def test_every_definition_says_what_it_means():
    for definition in DEFINITIONS.values():
        assert all((definition.ttft, definition.itl, definition.tpot, definition.e2e, definition.source))
