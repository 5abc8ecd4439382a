"""Prompt sets, and what is voted on, by whom on which side."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from core.domain.conversation import Sampling, StoredImage
from core.domain.sessions import Candidate, ControlKind, VotingMode
from core.domain.specs import EngineKind, LaneSpec, ModelSpec
from core.domain.turns import ErrorInfo, FinishReason
from core.errors import InputError
from core.images.gallery import gallery
from core.sessions.items import (
    SHIPPED,
    assigned_items,
    build_ballot,
    giveaways,
    mixed_prompts,
    no_image,
    pasted_prompts,
    prompt_set,
    second_samples,
    shipped_set,
    uploaded_prompts,
    usable_texts,
)
from tests.unit.sessions.session_samples import answer, answers, open_session, plan

IMAGE = StoredImage(
    sha256="0" * 64, media_type="image/png", width_px=1, height_px=1, size_bytes=1, name="cup.png"
)
CATEGORIES = {
    "knowledge", "reasoning", "writing", "code", "translation", "instruction following", "safety",
}  # fmt: skip


def image_of(name: str) -> StoredImage:
    if name not in ("cup.png", *(picture.name for picture in gallery())):
        raise InputError(f"no {name}")
    return IMAGE


@pytest.mark.parametrize(("key", "language"), [("english", "en"), ("chinese", "zh")])
def test_the_shipped_sets_hold_forty_prompts_over_seven_categories(key, language):
    prompts = shipped_set(key, no_image).prompts
    assert len(prompts) >= 40
    assert {prompt.category for prompt in prompts} == CATEGORIES
    assert min(Counter(prompt.category for prompt in prompts).values()) >= 5
    assert {prompt.language for prompt in prompts} == {language}
    assert len({prompt.text for prompt in prompts}) == len(prompts)


def test_the_vision_set_names_images_of_the_gallery():
    prompts = shipped_set("vision", image_of).prompts
    assert len(prompts) >= 12
    assert all(prompt.images for prompt in prompts)


def test_all_shipped_sets_have_a_file():
    assert set(SHIPPED) == {"english", "chinese", "vision"}


def test_the_version_tells_whether_prompts_are_the_same():
    one, two = pasted_prompts("A\nB"), pasted_prompts("A\nC")
    assert prompt_set("x", one).version == prompt_set("y", one).version
    assert prompt_set("x", one).version != prompt_set("x", two).version


def test_pasted_lines():
    prompts = pasted_prompts("  First \n\n第二个\n")
    assert [(prompt.text, prompt.language) for prompt in prompts] == [("First", ""), ("第二个", "zh")]


def test_csv_with_a_byte_order_mark_and_line_breaks_in_cells():
    data = '\ufeffprompt,category,language\n"Two\nlines",code,en\n,,\nThird,,\n'.encode()
    prompts = uploaded_prompts({"set.csv": data}, no_image)
    assert [(prompt.text, prompt.category, prompt.language) for prompt in prompts] == [
        ("Two\nlines", "code", "en"),
        ("Third", "", ""),
    ]


def test_jsonl_with_an_image():
    data = b'{"prompt": "What is it?", "image": "cup.png", "category": "objects"}\n'
    prompts = uploaded_prompts({"set.jsonl": data, "cup.png": b"..."}, image_of)
    assert (prompts[0].images, prompts[0].category) == ((IMAGE,), "objects")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "0 prompt files"),
        ({"a.csv": b"", "b.txt": b""}, "2 prompt files"),
        ({"a.csv": b"question\nWhy?\n"}, 'no column "prompt"'),
        ({"a.txt": "für".encode("latin-1")}, "is not a UTF-8 text file"),
        ({"a.jsonl": b'{"prompt": "x"}\n{"text": "y"}'}, "a.jsonl, line 2"),
        ({"a.csv": b"prompt,image\nx,plate.png\n"}, "a.csv, line 2"),
    ],
)
def test_what_can_t_be_read_is_said(files, message):
    with pytest.raises(InputError, match=message):
        uploaded_prompts(files, image_of)


@pytest.mark.parametrize(
    ("name", "prompts"), [("x", ""), ("x", "a\n" * 501), ("x", "a" * 20_001), (" ", "a")]
)
def test_sets_that_can_t_be_used(name, prompts):
    with pytest.raises(InputError):
        prompt_set(name, pasted_prompts(prompts))


def ballot(of, given):
    return build_ballot(of, usable_texts(given))


def test_every_pair_of_lanes_is_an_item_for_every_prompt():
    three = plan("a", "b", "c", prompts=4)
    assert len(ballot(three, answers(three)).items) == 3 * 4


def test_a_failed_answer_takes_its_lane_out_of_that_prompt_only():
    three = plan("a", "b", "c", prompts=2)
    failed = answer(0, 1, finish_reason=FinishReason.ERROR, error=ErrorInfo("crash", "It crashed"))
    given = [failed if (each.prompt, each.lane) == (0, 1) else each for each in answers(three)]
    items = ballot(three, given).items
    assert Counter(item.prompt for item in items) == {0: 1, 1: 3}
    assert [c.lane for item in items if item.prompt == 0 for c in item.candidates] == [0, 2]


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_answer_without_text_is_not_voted_on(text):
    two = plan(prompts=1)
    assert ballot(two, [answer(0, 0, text=text), answer(0, 1)]).items == ()


def test_same_answers_are_controls_and_counted_but_no_real_items():
    two = plan(prompts=4, control_ratio=0.2)
    given = [answer(p, place, text="Same. " if p == 2 else None) for p in range(4) for place in (0, 1)]
    found = ballot(two, given)
    assert found.identical_pairs == 1
    assert [item.prompt for item in found.items if item.control is ControlKind.IDENTICAL] == [2]
    assert sorted(item.prompt for item in found.items if item.control is None) == [0, 1, 3]


def test_without_same_answers_one_is_shown_twice():
    two = plan(prompts=6, control_ratio=0.2)
    controls = [item for item in ballot(two, answers(two)).items if item.control]
    assert controls
    assert all(first == second for first, second in (item.candidates for item in controls))


def test_second_samples_become_controls_unless_they_are_the_same():
    two = plan(prompts=10, control_ratio=0.1)
    wanted = second_samples(two)
    assert len(wanted) == 2
    (one, its_lane), (other, other_lane) = wanted
    given = [
        *answers(two),
        answer(one, its_lane, 1),
        answer(other, other_lane, 1, text=f"Answer {other}.{other_lane}.0"),
    ]
    controls = [item for item in ballot(two, given).items if item.control is ControlKind.TWO_SAMPLES]
    assert [(item.prompt, item.candidates) for item in controls] == [
        (one, (Candidate(its_lane, 0), Candidate(its_lane, 1)))
    ]


def test_greedy_sampling_has_no_second_samples():
    assert second_samples(plan(control_ratio=0.2, sampling=Sampling())) == ()


def test_ranking_shows_at_most_four_answers():
    six = plan(*"abcdef", prompts=1, mode=VotingMode.RANKING)
    items = ballot(six, answers(six)).items
    assert len(items) == 15
    assert {len(item.candidates) for item in items} == {4}


def test_ranking_shows_no_answer_twice():
    three = plan(*"abc", prompts=2, mode=VotingMode.RANKING)
    given = [answer(p, place, text="same" if place < 2 else "other") for p in range(2) for place in range(3)]
    items = ballot(three, given).items
    assert [[c.lane for c in item.candidates] for item in items] == [[0, 2], [1, 2]]


def test_prompts_are_mixed_by_category():
    categories = [plan().prompts.prompts[place].category for place in mixed_prompts(plan())]
    assert all(one != other for one, other in pairwise(categories))


def seats_of(session, seats):
    return [assigned_items(session.id, session.plan, session.items, seat) for seat in range(seats)]


@pytest.mark.parametrize("lanes", ["ab", "abc", "abcd", "abcdef"])
def test_lanes_stand_left_as_often_as_right(lanes):
    session = open_session(plan(*lanes, prompts=60))
    left: Counter[int] = Counter()
    for order in seats_of(session, 4):
        mine: Counter[int] = Counter()
        for assigned in order:
            lanes_shown = [session.items[assigned.item].candidates[place].lane for place in assigned.shown]
            mine.update({lanes_shown[0]: 1, lanes_shown[1]: -1})
        assert all(abs(count) <= 4 for count in mine.values())
        left.update(mine)
    assert all(abs(count) <= 2 for count in left.values())


@pytest.mark.parametrize("lanes", ["ab", "abc", "abcd"])
def test_neighbours_get_the_same_items_with_the_sides_swapped(lanes):
    session = open_session(plan(*lanes, prompts=12, control_ratio=0.25))
    one, other = ({assigned.item: assigned.shown for assigned in order} for order in seats_of(session, 2))
    assert one.keys() == other.keys()
    assert all(one[item] == tuple(reversed(other[item])) for item in one)


def test_pairs_and_prompts_are_spread_evenly():
    session = open_session(plan(*"abcd", prompts=24, votes_per_person=24))
    orders = seats_of(session, 4)
    for order in orders:
        assert len({session.items[assigned.item].prompt for assigned in order}) == 24
        pairs = Counter(session.items[assigned.item].candidates for assigned in order)
        assert set(pairs.values()) == {4}


def test_fewer_votes_than_prompts_still_reach_all_prompts():
    session = open_session(plan(prompts=30, votes_per_person=10))
    prompts = Counter(
        session.items[assigned.item].prompt for order in seats_of(session, 6) for assigned in order
    )
    assert set(prompts.values()) == {2}


def test_nobody_gets_an_item_twice_nor_more_than_there_are():
    session = open_session(plan(*"abc", prompts=5, votes_per_person=100, control_ratio=0.1))
    for order in seats_of(session, 3):
        items = [assigned.item for assigned in order]
        assert len(set(items)) == len(items)
        assert len([item for item in items if session.items[item].control is None]) == 15


def test_controls_have_their_share():
    session = open_session(plan(prompts=40, votes_per_person=20, control_ratio=0.2))
    for order in seats_of(session, 2):
        controls = [assigned for assigned in order if session.items[assigned.item].control]
        assert (len(order), len(controls)) == (20, 4)


def test_a_seat_gets_the_same_order_each_time_and_another_seat_another_one():
    session = open_session(plan(prompts=20))
    first, again, second = seats_of(session, 1)[0], seats_of(session, 1)[0], seats_of(session, 2)[1]
    assert first == again
    assert [assigned.item for assigned in first] != [assigned.item for assigned in second]


def test_rankings_put_each_lane_in_each_place_equally_often():
    session = open_session(plan(*"abcd", prompts=40, mode=VotingMode.RANKING))
    places: Counter[tuple[int, int]] = Counter()
    for order in seats_of(session, 2):
        for assigned in order:
            places.update((place, position) for position, place in enumerate(assigned.shown))
    assert set(places.values()) == {20}


QWEN = LaneSpec(
    name="hf", kind=EngineKind.TRANSFORMERS, model=ModelSpec(name="7b", checkpoint="hub/Qwen2.5-7B-Instruct")
)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("I am qwen, made to help.", "qwen"),
        ("Ask Beta-Lane instead.", "beta"),
        ("I am a language model.", None),
        ("hf", None),
        ("", None),
    ],
)
def test_names_in_answers(text, word):
    session = plan("beta-lane", "other-lane", prompts=2)
    session = replace(session, lanes=(QWEN, session.lanes[0]))
    found = giveaways(session, [answer(1, 0, text=text)])
    assert [(each.prompt, each.lane, each.word) for each in found] == ([] if word is None else [(1, 0, word)])


def test_a_name_that_the_prompt_has_too_gives_nothing_away():
    session = plan("prompt", "other", prompts=1)
    assert giveaways(session, [answer(0, 1, text="This prompt is short.")]) == ()
