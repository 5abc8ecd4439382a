"""Each metric against timestamps small enough to work out by hand."""

import pytest

from core.domain.timing import Timing

MS = 1_000_000


def timing(*arrivals_ms: float, tokens=None, chunk_tokens=None, content=None, reasoning=()):
    return Timing(
        sent_ns=1_000 * MS,
        chunk_ns=tuple(1_000 * MS + int(at * MS) for at in arrivals_ms),
        content_chars=content or (4,) * len(arrivals_ms),
        reasoning_chars=reasoning,
        chunk_tokens=chunk_tokens,
        output_tokens=tokens,
    )


def test_one_token_a_chunk():
    answer = timing(100, 110, 120, 140, tokens=4)
    assert answer.ttft_s == pytest.approx(0.100)
    assert answer.e2e_s == pytest.approx(0.140)
    assert answer.tpot_s == pytest.approx(0.040 / 3)
    assert answer.decode_tok_per_s == pytest.approx(75)
    assert answer.e2e_tok_per_s == pytest.approx(4 / 0.140)
    assert answer.icl_s == pytest.approx((0.010, 0.010, 0.020))
    assert answer.itl_s == pytest.approx((0.010, 0.010, 0.020))


def test_tokens_of_the_first_chunk_are_not_later_tokens():
    answer = timing(100, 200, tokens=8, chunk_tokens=(3, 5))
    assert answer.tpot_s == pytest.approx(0.100 / 5)
    assert answer.itl_s == pytest.approx((0.100 / 5,))


def test_chunks_that_are_not_tokens_have_no_itl_without_token_ids():
    answer = timing(100, 200, 300, tokens=8)
    assert answer.itl_s is None
    assert answer.icl_s == pytest.approx((0.1, 0.1))
    assert answer.tpot_s == pytest.approx(0.2 / 7)


def test_a_chunk_without_tokens_of_its_own_is_no_token_gap():
    assert timing(0, 10, 30, chunk_tokens=(1, 0, 2)).itl_s == pytest.approx((0.010,))


def test_one_token_has_no_tpot():
    answer = timing(100, tokens=1)
    assert answer.tpot_s is None
    assert answer.decode_tok_per_s is None
    assert answer.e2e_tok_per_s == pytest.approx(10)


def test_unknown_token_count_leaves_latencies_only():
    answer = timing(100, 200)
    assert (answer.tpot_s, answer.decode_tok_per_s, answer.e2e_tok_per_s) == (None, None, None)
    assert answer.e2e_s == pytest.approx(0.2)


def test_all_tokens_in_one_burst_have_no_decode_speed():
    """Several chunks read at the same instant: a TPOT of zero is not an infinite speed."""
    assert timing(100, 100, 100, tokens=3).decode_tok_per_s is None


def test_no_text_has_no_metrics():
    answer = timing(tokens=0)
    assert (answer.ttft_s, answer.e2e_s, answer.tpot_s) == (None, None, None)
    assert answer.icl_s == ()


def test_reasoning_counts_for_decode_but_not_for_ttft():
    answer = timing(50, 100, 150, tokens=3, content=(0, 0, 5), reasoning=(4, 4, 0))
    assert answer.reasoning_ttft_s == pytest.approx(0.050)
    assert answer.ttft_s == pytest.approx(0.150)
    assert answer.tpot_s == pytest.approx(0.050)


def test_content_that_never_came_has_no_ttft():
    answer = timing(50, 100, tokens=2, content=(0, 0), reasoning=(4, 4))
    assert answer.ttft_s is None
    assert answer.e2e_s == pytest.approx(0.1)
