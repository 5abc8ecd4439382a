"""Questions with known answers, and how answers are graded."""

import json

import pytest

from core.errors import InputError
from core.quality.tasks import Grade, Grader, TaskItem, check_schema, grade, holds_any, normalised, numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red", ["red"]),
        ("Red.", ["red"]),
        ("  The circle is RED!\n", ["red"]),
        ("There are three stars.", ["3"]),
        ("3", ["three"]),
        ("It is a red circle.", ["the red circle"]),
        ("It is on the left-hand side.", ["left hand"]),
        ("about 2.5 metres", ["2.5"]),
        ("图中有三只猫", ["猫"]),
        ("scarlet", ["red", "scarlet"]),
    ],
)
def test_an_answer_is_right_by_whole_words(text, expected):
    assert holds_any(text, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reddish", ["red"]),
        ("13", ["3"]),
        ("circle red", ["red circle"]),
        ("There are 2.5 of them", ["2"]),
        ("", ["red"]),
        ("blue", ["red"]),
        ("anything", []),
        ("anything", ["?!", "the"]),
    ],
)
def test_anything_else_is_wrong(text, expected):
    assert not holds_any(text, expected)


def test_the_compared_form_has_no_case_punctuation_articles_or_number_words():
    assert normalised("The TWO dogs, a cat & one  bird…") == "2 dogs cat 1 bird"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("17 + 26 = 43", (17, 26, 43)),
        ("It costs $1,250.50.", (1250.5,)),
        ("minus: −4", (-4,)),
        ("pages 3-5", (3, 5)),
        ("six or seven", (6, 7)),
        ("二十三", (23,)),
        ("答案是十二。", (12,)),
        ("答案是４２", (42,)),
        ("none at all", ()),
    ],
)
def test_numbers_are_read_in_digits_words_and_numerals(text, expected):
    assert numbers(text) == expected


def item(grader: Grader, *answers: str, **changes) -> TaskItem:
    return TaskItem(id="1", prompt="?", grader=grader, answers=answers, **changes)


CHOICES = ("Venus", "Mercury", "Mars", "Earth")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", Grade.RIGHT),
        ("B.", Grade.RIGHT),
        ("(B) Mercury", Grade.RIGHT),
        ("**B**", Grade.RIGHT),
        ("The answer is B.", Grade.RIGHT),
        ("答案是B", Grade.RIGHT),
        ("答案：Ｂ", Grade.RIGHT),
        ("A planet that is close is Mercury.", Grade.RIGHT),
        ("mercury", Grade.RIGHT),
        ("A", Grade.WRONG),
        ("A. Venus", Grade.WRONG),
        ("Answer: C", Grade.WRONG),
        ("Mars", Grade.WRONG),
        ("It is either Venus or Mercury.", Grade.WRONG),
        ("I do not know.", Grade.UNANSWERED),
        ("   ", Grade.UNANSWERED),
    ],
)
def test_a_choice_is_read_from_its_letter_or_its_text(text, expected):
    assert grade(item(Grader.CHOICE, "B", choices=CHOICES), text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", Grade.RIGHT),
        ("6 × 7 = 42", Grade.RIGHT),
        ("The answer is forty-two, 42.0.", Grade.RIGHT),
        ("42 eggs in 7 boxes", Grade.WRONG),
        ("many", Grade.UNANSWERED),
    ],
)
def test_a_number_is_the_last_one_of_the_answer(text, expected):
    assert grade(item(Grader.NUMBER, "42"), text) is expected


def test_a_number_may_be_off_by_its_tolerance():
    about_pi = item(Grader.NUMBER, "3.14159", tolerance=0.01)
    assert grade(about_pi, "3.14") is Grade.RIGHT
    assert grade(about_pi, "3.1") is Grade.WRONG


def test_exact_takes_nothing_beside_the_answer_and_contains_does():
    assert grade(item(Grader.EXACT, "yes"), "Yes.") is Grade.RIGHT
    assert grade(item(Grader.EXACT, "yes"), "Yes, it is.") is Grade.WRONG
    assert grade(item(Grader.CONTAINS, "yes"), "Yes, it is.") is Grade.RIGHT


SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"age": 31}', Grade.RIGHT),
        ('Here it is:\n```json\n{"age": 31}\n```', Grade.RIGHT),
        ('{"age": "31"}', Grade.WRONG),
        ('{"age": 32}', Grade.WRONG),
        ('{"age": 31, "name": "Mia"}', Grade.WRONG),
        ("age is 31", Grade.UNANSWERED),
        ('{"age": 31', Grade.UNANSWERED),
    ],
)
def test_json_must_fit_the_schema_and_equal_the_value(text, expected):
    assert grade(item(Grader.JSON_SCHEMA, '{"age": 31}', json_schema=SCHEMA), text) is expected


def test_a_schema_is_enough_without_a_value():
    assert grade(item(Grader.JSON_SCHEMA, json_schema=SCHEMA), '{"age": 5}') is Grade.RIGHT


def test_a_schema_that_refers_elsewhere_fetches_nothing():
    remote = item(Grader.JSON_SCHEMA, json_schema={"$ref": "http://127.0.0.1:9/schema.json"})
    assert grade(remote, "{}") is Grade.WRONG


def test_a_schema_that_is_none_is_refused():
    with pytest.raises(InputError, match="schema"):
        check_schema({"type": "thing"})


DOUBLE = "def double(x):\n    return 2 * x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DOUBLE, Grade.RIGHT),
        (f"```python\n{DOUBLE}\n```\nThis doubles x.", Grade.RIGHT),
        ('def double(number: int) -> int:\n    """Twice."""\n    return 2*number  # twice', Grade.RIGHT),
        ("def double(x):\n    return 3 * x", Grade.WRONG),
        ("def treble(x):\n    return 2 * x", Grade.WRONG),
        ("def double(x) return 2 * x", Grade.WRONG),
        ("(" * 5000, Grade.WRONG),
    ],
)
def test_code_is_the_same_whatever_its_names_and_format(text, expected):
    assert grade(item(Grader.CODE, DOUBLE), text) is expected


def test_code_that_would_do_harm_is_only_read(tmp_path):
    file = tmp_path / "harm"
    grade(item(Grader.CODE, DOUBLE), f"open({json.dumps(str(file))}, 'w')")
    assert not file.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"grader": Grader.CHOICE, "answers": ("E",), "choices": ("a", "b")},
        {"grader": Grader.CHOICE, "answers": ("A",), "choices": ("a",)},
        {"grader": Grader.NUMBER, "answers": ("many",)},
        {"grader": Grader.CONTAINS, "answers": ()},
        {"grader": Grader.JSON_SCHEMA},
        {"grader": Grader.EXACT, "answers": ("a",), "prompt": " "},
        {"grader": Grader.EXACT, "answers": ("a",), "max_tokens": 0},
    ],
)
def test_an_item_that_can_not_be_graded_is_refused(changes):
    with pytest.raises(InputError, match="Task 1"):
        TaskItem(**{"id": "1", "prompt": "?", **changes})
