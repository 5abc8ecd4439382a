import pytest

from core.quality.tasks.task import holds_any, normalised, numbers


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
