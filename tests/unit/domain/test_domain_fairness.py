from dataclasses import replace

from core.domain.conversation import Message, Role, Sampling, StoredImage
from core.domain.fairness import after, before, places
from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.domain.timing import Timing
from core.domain.turns import (
    FinishReason,
    Mode,
    Phase,
    Place,
    RequestPlan,
    RequestRecord,
    TurnRecord,
    utc_now,
)

MODEL = ModelSpec(name="m", checkpoint="/m", gguf="/m/m.gguf", awq="/m-awq")


def lane(name, kind=EngineKind.TURBOMIND, weights=Weights.CHECKPOINT, model=MODEL, **settings):
    return LaneSpec(name=name, kind=kind, model=model, weights=weights, settings=EngineSettings(**settings))


def record(spec, *, prompt_tokens=10, tokens=5, messages=1, notes=(), cached=None):
    return RequestRecord(
        id=spec.name,
        turn_id="t",
        lane=spec,
        messages=(Message(Role.USER, "Hi"),) * messages,
        phase=Phase.DONE,
        finish_reason=FinishReason.STOP,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached,
        timing=Timing(sent_ns=0, output_tokens=tokens),
        notes=notes,
    )


def turn(*records, sampling=None):
    return TurnRecord(
        id="t",
        conversation_id="c",
        created_at=utc_now(),
        prompt="Hi",
        system_prompt="",
        mode=Mode.TOGETHER,
        sampling=sampling or Sampling(),
        requests=records,
    )


def names(flags):
    return {flag.subject for flag in flags}


def test_equal_lanes_raise_no_flag():
    records = [record(lane("a")), record(lane("b"))]
    assert before(records) == ()
    assert after(turn(*records)) == ()


def test_what_lanes_exist_to_show_is_marked_as_intended():
    flags = before([record(lane("a")), record(lane("b", EngineKind.AWQ, Weights.AWQ, dtype="float16"))])
    assert names(flags) == {"weights", "dtype"}
    assert all(flag.intended for flag in flags)


def test_gpus_and_replicas_are_told():
    flags = before([record(lane("a")), record(lane("b", tp=2)), record(lane("c", replicas=2))])
    assert [flag.text for flag in flags] == [
        "GPUs: 1 (a) · 2 (b, c)",
        "batch limit: 64 requests at once (a, b) · 128 requests at once (c)",
    ]
    assert [flag.intended for flag in flags] == [True, False]


def test_unequal_settings_are_named_with_their_values():
    flags = before([record(lane("a", session_len=2048)), record(lane("b")), record(lane("c"))])
    assert [flag.text for flag in flags] == ["context limit: 2,048 tokens (a) · 4,096 tokens (b, c)"]
    assert not flags[0].intended


def test_every_setting_of_the_guard_is_seen():
    odd = lane(
        "b",
        EngineKind.TRANSFORMERS,
        model=replace(MODEL, name="other"),
        enable_prefix_caching=True,
    )
    assert names(before([record(lane("a")), record(odd, messages=3)])) == {
        "model",
        "context limit",
        "batch limit",
        "prefix caching",
        "history",
    }


def test_token_counts_and_caches_are_compared_afterwards():
    flags = after(turn(record(lane("a"), cached=0), record(lane("b"), prompt_tokens=12, cached=8)))
    assert names(flags) == {"prompt tokens", "cached prompt tokens"}


def test_an_unknown_count_is_no_difference():
    assert after(turn(record(lane("a")), record(lane("b"), prompt_tokens=None))) == ()


def test_a_fixed_length_that_was_not_kept_is_flagged_for_its_lane_only():
    fixed = Sampling(max_tokens=5, fixed_length=True)
    (flag,) = after(turn(record(lane("a")), record(lane("b"), tokens=3), sampling=fixed))
    assert flag.text == "fixed length not kept: 3 of 5 (b)"


def test_an_answer_above_the_token_limit_is_flagged_for_its_lane_only():
    records = [record(lane("a"), tokens=48), record(lane("b"), tokens=186), record(lane("c"), tokens=None)]
    (flag,) = after(turn(*records, sampling=Sampling(max_tokens=48)))
    assert flag.text == "token limit exceeded: 186 of at most 48 (b)"
    assert not flag.compares


def test_a_stopped_answer_exceeds_no_limit():
    stopped = replace(record(lane("a"), tokens=186), finish_reason=FinishReason.CANCELLED)
    assert after(turn(stopped, sampling=Sampling(max_tokens=48))) == ()


def test_what_a_server_does_not_take_is_flagged():
    (flag,) = after(turn(record(lane("a"), notes=("top_k was not sent",)), record(lane("b"))))
    assert flag.by_lane == {"a": "top_k was not sent"}


def test_images_that_only_one_lane_remembers_are_seen():
    cat = StoredImage(sha256="c" * 64, media_type="image/png", width_px=8, height_px=8, size_bytes=9)
    with_cat = replace(record(lane("a")), messages=(Message(Role.USER, "Hi", (cat,)),))
    flags = before([with_cat, record(lane("b"))])
    assert [flag.text for flag in flags] == ["images in the conversation: 1 (a) · 0 (b)"]


def test_other_preprocessing_of_the_same_image_is_seen():
    records = [record(lane("a")), record(lane("b"))]
    same, other = "576 tokens at 336 × 336 px", "1,026 tokens at 896 × 448 px"
    assert before(records, images={"a": same, "b": same}) == ()
    (flag,) = before(records, images={"a": same, "b": other})
    assert flag.text == f"images as the model sees them: {same} (a) · {other} (b)"
    assert not flag.intended


class TestPlaces:
    HERE = Place(over_network=False)

    def test_equal_places_and_unknown_ones_raise_no_flag(self):
        assert places({"a": self.HERE, "b": self.HERE, "c": None}) == ()

    def test_lanes_on_different_nodes_are_flagged(self):
        (flag,) = places({"a": self.HERE, "b": Place(node="gpu1", measured_on="gpu1", over_network=False)})
        assert flag.text == "node: this machine (a) · gpu1 (b)"

    def test_a_network_on_one_side_alone_is_flagged(self):
        server = Place(over_network=True)
        (flag,) = places({"a": self.HERE, "b": server})
        assert flag.text == "between meter and engine: no network (a) · a network (b)"

    def test_a_turn_shows_where_its_lanes_ran(self):
        one = replace(record(lane("a")), place=Place(node="gpu1", over_network=True))
        other = replace(record(lane("b")), place=Place(node="gpu2", over_network=True))
        assert names(after(turn(one, other))) == {"node"}

    def test_named_nodes_are_compared_before_anything_runs(self):
        plans = [
            RequestPlan(lane=replace(lane(n), node=node), messages=()) for n, node in (("a", "x"), ("b", "y"))
        ]
        assert names(before(plans)) == {"node"}
        assert before([plans[0], replace(plans[1], lane=lane("b"))]) == ()
