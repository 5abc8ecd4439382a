"""The dashboard on a GPU machine: its chat page, driven through all three lanes."""

import json
import os
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.domain.turns import TurnRecord

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(580)]

ROOT = Path(__file__).resolve().parents[2]


def stored(conversation: str | list[str]) -> TurnRecord:
    """The only turn of a conversation once its answers are stored, which happens in the background."""
    from core.ui.shared import resources

    deadline = time.monotonic() + 10
    while True:
        (turn,) = resources.store().conversation(
            conversation[0] if isinstance(conversation, list) else conversation
        )
        if turn.done or time.monotonic() > deadline:
            return turn
        time.sleep(0.1)


def test_three_engines_answer_in_the_chat_page():
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=560)
    app.switch_page("pages/chat.py").run()
    assert not app.exception
    app.chat_input[0].set_value("What is the capital of Japan?").run()
    assert not app.exception
    assert not app.error, [error.value for error in app.error]

    from core.ui.shared import resources

    turn = stored(app.query_params["conversation"])
    answers = {request.lane.name: request for request in turn.requests}
    try:
        assert set(answers) == {"hf", "turbomind", "awq"}
        assert {name: request.error for name, request in answers.items()} == dict.fromkeys(answers)
        assert all(request.text for request in turn.requests)
        assert "Tokyo" in answers["hf"].text
        assert "Tokyo" in answers["turbomind"].text
        assert (
            answers["hf"].prompt_tokens == answers["turbomind"].prompt_tokens == answers["awq"].prompt_tokens
        )
    finally:
        if out := os.environ.get("LMDYNO_GPU_OUT"):
            facts = {
                name: {
                    "text": request.text,
                    "ttft_s": request.ttft_s,
                    "decode_tok_per_s": request.decode_tok_per_s,
                    "version": request.engine_version,
                    "device": request.device,
                }
                for name, request in answers.items()
            }
            Path(out, "dashboard.json").write_text(json.dumps(facts, indent=1))
        resources.resources().close()
