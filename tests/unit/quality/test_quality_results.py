from dataclasses import replace

import pytest

from core.domain.runs import Prompted, QualityAnswer, ScoringMethod, TextScore
from core.domain.turns import ErrorInfo, FinishReason
from core.quality.results import Outcome, Role, outcome, results, role_of
from core.quality.verdict import NOISE_NATS, Level, flags, noise_nats, verdicts
from tests.unit.quality import quality_samples as samples


@pytest.fixture
def result():
    return results(samples.record())


def lane(result, name):
    return next(found for found in result.lanes if found.name == name)


def test_the_lanes_have_their_roles(result):
    assert [(found.name, found.role) for found in result.lanes] == [
        ("hf", Role.REFERENCE),
        ("turbomind", Role.CONTROL),
        ("awq", Role.COMPARED),
    ]
    quantised = replace(samples.TURBOMIND, settings=replace(samples.TURBOMIND.settings, quant_policy=8))
    assert role_of(quantised, samples.HF) is Role.COMPARED


def test_tasks_are_counted_and_paired(result):
    awq = lane(result, "awq").tasks
    assert (awq.outcomes[Outcome.RIGHT], awq.outcomes[Outcome.WRONG], awq.asked) == (6, 4, 10)
    assert (awq.difference.only_reference, awq.difference.only_lane) == (3, 0)
    assert awq.difference.p_value == pytest.approx(0.25)
    assert result.reference.tasks.difference is None
    assert result.reference.tasks.accuracy_ratio == 0.9


def test_agreement_is_that_of_the_answers_tokens(result):
    assert lane(result, "turbomind").agreement.identical == 3
    awq = lane(result, "awq").agreement
    assert (awq.identical, awq.n) == (1, 3)
    # "Hello there, my f" is equal, and "No" of "Nothing".
    assert [awq.agreements[place].parts_at for place in (0, 2)] == [17, 2]
    assert result.noise.identical == 3
    assert result.reference.agreement is None


def test_likelihoods_are_compared_over_the_same_sequences(result):
    awq = lane(result, "awq").text("book.txt")
    assert awq.nats_per_token == pytest.approx(1.1)
    assert awq.difference.value == pytest.approx(0.1)
    assert awq.difference.is_clear
    assert awq.top1_ratio == pytest.approx(0.91)
    assert awq.kl_nats_per_token == pytest.approx(0.001)
    assert result.reference.text("book.txt").top1_ratio is None


def test_speed_memory_and_energy_are_those_of_the_answers(result):
    awq = lane(result, "awq")
    assert awq.timed == 13
    assert awq.ttft_p50_s == pytest.approx(0.05)
    assert awq.decode_tok_per_s_p50 == pytest.approx(500)
    assert awq.memory_bytes == 2 * 2**30
    assert awq.energy_j_per_token == pytest.approx(50 / (13 * 4))


def test_scores_of_other_sequences_are_not_subtracted():
    record = samples.record()
    hf, *others = record.run.lanes
    moved = replace(hf, scores=(replace(hf.scores[0], sha256="ee"),))
    other = results(replace(record, run=replace(record.run, lanes=(moved, *others))))
    assert lane(other, "awq").text("book.txt").difference is None


def test_a_forward_pass_counts_before_what_a_server_tells_and_the_gap_is_kept():
    record = samples.record()
    hf, turbomind, awq = record.run.lanes
    (score,) = turbomind.scores
    served = replace(
        score,
        method=ScoringMethod.GET_PPL,
        sequences=tuple(replace(each, nll_nats=each.nll_nats + 0.05) for each in score.sequences),
    )
    both = replace(turbomind, scores=(served, score))
    found = lane(results(replace(record, run=replace(record.run, lanes=(hf, both, awq)))), "turbomind").text(
        "book.txt"
    )
    assert found.method is ScoringMethod.FORWARD_PASS
    assert found.methods_gap_nats == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"text": "It is 6."}, Outcome.RIGHT),
        ({"text": "It is 6.", "finish_reason": FinishReason.LENGTH}, Outcome.RIGHT),
        ({"text": "It is 7."}, Outcome.WRONG),
        ({"text": "It is 7", "finish_reason": FinishReason.LENGTH}, Outcome.CUT_OFF),
        ({"text": "six?"}, Outcome.RIGHT),
        ({"text": "many"}, Outcome.UNANSWERED),
        ({"text": "6", "error": ErrorInfo("engine-crashed", "It died")}, Outcome.FAILED),
        ({"text": "6", "finish_reason": FinishReason.CANCELLED}, Outcome.FAILED),
    ],
)
def test_an_answers_outcome(changes, expected):
    fields = {"lane": "hf", "part": Prompted.TASK, "item": 3, "finish_reason": FinishReason.STOP, **changes}
    assert outcome(QualityAnswer(**fields), samples.TASKS[3]) is expected


def test_the_verdict_names_what_is_worse_and_by_how_much(result):
    by_lane = {verdict.lane: verdict for verdict in verdicts(result)}
    assert by_lane["hf"].level is Level.REFERENCE
    assert by_lane["turbomind"].level is Level.SAME
    assert by_lane["awq"].level is Level.WORSE
    assert by_lane["awq"].sentence == "awq is measurably worse than hf."
    reasons = " ".join(by_lane["awq"].reasons)
    assert "6 of 10 tasks are correct" in reasons
    assert "+0.100 nats per token" in reasons
    assert "1 of 3 answers are identical" in reasons
    assert "15.00×" in reasons


def test_a_difference_within_the_noise_is_none():
    record = samples.record()
    hf, turbomind, awq = record.run.lanes
    (score,) = turbomind.scores
    loud = replace(
        turbomind,
        scores=(
            replace(
                score,
                sequences=tuple(replace(each, nll_nats=each.nll_nats + 12) for each in score.sequences),
            ),
        ),
    )
    noisy = results(replace(record, run=replace(record.run, lanes=(hf, loud, awq))))
    assert noise_nats(noisy, "book.txt") == pytest.approx(0.1205)
    assert noise_nats(results(record), "book.txt") == NOISE_NATS
    assert next(v.level for v in verdicts(noisy) if v.lane == "awq") is Level.SAME


def test_an_unknown_likelihood_and_a_failed_lane_say_why():
    record = samples.record()
    hf, turbomind, awq = record.run.lanes
    error = ErrorInfo("no-such-endpoint", "The server doesn't offer /get_ppl")
    silent = replace(turbomind, scores=(TextScore(text="book.txt", error=error),))
    broken = replace(awq, error=ErrorInfo("engine-crashed", "The engine died"), scores=())
    found = results(replace(record, run=replace(record.run, lanes=(hf, silent, broken))))
    by_lane = {verdict.lane: verdict for verdict in verdicts(found)}
    assert any("doesn't offer /get_ppl" in reason for reason in by_lane["turbomind"].reasons)
    assert by_lane["awq"].level is Level.FAILED
    assert "The engine died" in by_lane["awq"].sentence


def test_intended_differences_are_marked_and_others_flagged(result):
    found = {flag.subject: flag.intended for flag in flags(result)}
    assert found["weights"] is True
    assert "tokenizer" not in found
    record = samples.record()
    hf, turbomind, awq = record.run.lanes
    other = replace(awq, tokenizer=replace(samples.TOKENIZER, probe_sha256="zz"))
    changed = results(replace(record, run=replace(record.run, lanes=(hf, turbomind, other))))
    flag = next(flag for flag in flags(changed) if flag.subject == "tokenizer")
    assert flag.by_lane["awq"] == "another"
