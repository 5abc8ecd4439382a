"""Answers that name a lane or a model."""

from dataclasses import replace

import pytest

from core.domain.specs import EngineKind, LaneSpec, ModelSpec
from core.sessions.giveaways import giveaways
from tests.unit.sessions.session_samples import answer, plan

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
