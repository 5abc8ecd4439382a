"""When an answer counts as right: the rule `contains` of `core.quality.tasks.graders`."""

from enum import StrEnum


class Verdict(StrEnum):
    RIGHT = "right"
    WRONG = "wrong"
    NO_ANSWER = "no-answer"
    """The lane failed, or was stopped."""
    NOT_GRADED = "not-graded"
    """Nobody said what would be right."""
