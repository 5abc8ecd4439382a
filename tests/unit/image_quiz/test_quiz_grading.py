import pytest

from core.image_quiz.grading import is_right, normalised


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
    assert is_right(text, expected)


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
    assert not is_right(text, expected)


def test_the_compared_form_has_no_case_punctuation_articles_or_number_words():
    assert normalised("The TWO dogs, a cat & one  bird…") == "2 dogs cat 1 bird"
