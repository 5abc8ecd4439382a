"""Sessions as files: what goes out, what comes in, and what must not."""

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import jsonschema
import pytest

from core.domain.sessions import Judgement, Participant, SessionRecord, SessionState, Verdict, VotingMode
from core.domain.turns import ErrorInfo, Machine
from core.errors import InputError
from core.i18n import N_
from core.reports.exported_file import read_session
from core.reports.html import session_html
from core.sessions.exports import battle_log, llm_comparator, session_json, session_schema, votes_csv
from tests.unit.sessions.session_samples import answer, answers, open_session, plan, votes_for

EVIL = "<script>alert(1)</script>"


def record(*lanes: str, prompts: int = 12, seats: int = 2, **changes) -> SessionRecord:
    session = open_session(
        plan(*lanes, prompts=prompts, **changes), machine=Machine(host="lab", platform="x", python="3")
    )
    people = tuple(
        Participant(
            id=f"p{seat}",
            session_id=session.id,
            name=f"Ada {seat}",
            code=f"code{seat}",
            seat=seat,
            user=f"u{seat}",
        )
        for seat in range(seats)
    )
    return SessionRecord(
        session=session,
        answers=answers(session.plan),
        participants=people,
        votes=tuple(votes_for(session, best=0, seats=seats)),
    )


def test_an_exported_session_fits_its_schema():
    given = record("a", "b", "c", control_ratio=0.1)
    failed = answer(0, 1, error=ErrorInfo("crash", N_("It crashed: {why}", why="memory")))
    given = replace(given, answers=(*given.answers[1:], failed))
    document = json.loads(session_json(given, names=False))
    schema = json.loads(session_schema())
    jsonschema.validate(document, schema)
    broken = document | {"votes": [{"item": "first"}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def imported(document):
    """What comes in of a session's document, or of bytes that may be one."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_session(io.BytesIO(data))


def test_an_imported_session_is_what_was_exported_but_closed():
    given = record("a", "b")
    found = imported(session_json(given, names=True))
    session = replace(given.session, state=SessionState.CLOSED, link="", imported=True)
    people = tuple(replace(person, code="") for person in given.participants)
    assert found == replace(given, session=session, participants=people)


@pytest.mark.parametrize("names", [True, False])
def test_secrets_never_leave_and_names_only_if_wanted(names):
    given = record()
    written = session_json(given, names=names) + votes_csv(given, names=names)
    for secret in (given.session.link, "code0", "code1"):
        assert f'"{secret}"'.encode() not in written
    assert (b"Ada 1" in written) == names
    assert (b'"u1"' in written) == names
    assert (b"P2" in written) != names


def test_a_line_of_csv_for_each_vote():
    given = record()
    rows = list(csv.DictReader(io.StringIO(votes_csv(given, names=False).decode("utf-8-sig"))))
    assert len(rows) == len(given.votes) == 24
    assert {row["participant"] for row in rows} == {"P1", "P2"}
    assert {row["order"] for row in rows} == {"alpha > beta"}
    assert sorted({row["shown"] for row in rows}) == ["alpha > beta", "beta > alpha"]
    assert rows[0]["category"] in ("code", "writing")


def test_a_comment_is_no_formula_for_a_spreadsheet():
    given = record()
    votes = (replace(given.votes[0], comment="=HYPERLINK(1)"), *given.votes[1:])
    rows = list(
        csv.DictReader(io.StringIO(votes_csv(replace(given, votes=votes), names=False).decode("utf-8-sig")))
    )
    assert rows[0]["comment"] == "'=HYPERLINK(1)"


def battles(given: SessionRecord) -> list[dict]:
    return [json.loads(line) for line in battle_log(given).splitlines()]


def test_battles_name_the_winner_by_side():
    given = record()
    found = battles(given)
    assert len(found) == 24
    for battle in found:
        winner = battle[battle["winner"]]
        assert winner == "alpha"
        assert battle["conversation_a"][0]["content"].startswith("Prompt")
        assert battle["conversation_a"][1]["role"] == "assistant"
        assert battle["anony"] is True
    assert {battle["winner"] for battle in found} == {"model_a", "model_b"}


def test_battles_leave_out_skips_and_controls_and_tell_ties():
    given = record(control_ratio=0.2, prompts=10)
    skipped, tied, bad, *_ = [vote for vote in given.votes if given.session.items[vote.item].control is None]
    votes = (
        replace(skipped, verdict=Verdict.SKIPPED, order=()),
        replace(tied, verdict=Verdict.TIE, order=()),
        replace(bad, verdict=Verdict.ALL_BAD, order=()),
    )
    controls = tuple(vote for vote in given.votes if given.session.items[vote.item].control)
    assert controls
    found = battles(replace(given, votes=(*votes, *controls)))
    assert [battle["winner"] for battle in found] == ["tie", "tie (bothbad)"]


def test_a_ranking_gives_a_battle_for_every_two_answers():
    given = record("a", "b", "c", mode=VotingMode.RANKING, prompts=4)
    assert len(battles(given)) == len(given.votes) * 3


def test_llm_comparator_gets_all_ratings_from_the_first_lanes_view():
    given = record("a", "b", "c", prompts=6, seats=6)
    document = json.loads(llm_comparator(given, 1, 0))
    assert [model["name"] for model in document["models"]] == ["b", "a"]
    ratings = [rating for example in document["examples"] for rating in example["individual_rater_scores"]]
    assert ratings
    assert {rating["score"] for rating in ratings} == {-1.5}
    assert {rating["is_flipped"] for rating in ratings} == {True, False}
    needed = ("input_text", "tags", "output_text_a", "output_text_b", "score", "individual_rater_scores")
    assert set(document["examples"][0]) == {*needed, "custom_fields"}


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["session"].update(id="../evil"),
        lambda d: d["session"]["items"][0].update(prompt=99),
        lambda d: d["session"]["items"][0]["candidates"][0].update(lane=7),
        lambda d: d["answers"][0].update(lane=-1),
        lambda d: d["answers"].append(d["answers"][0]),
        lambda d: d["answers"][0]["record"].update(prompt_tokens=10**30),
        lambda d: d["answers"][0]["record"].update(prompt_tokens=-1),
        lambda d: d["answers"][0]["record"].update(text="x" * (5 * 2**20)),
        lambda d: d["answers"][0]["record"].update(sent_at="2026-01-01T00:00:00"),
        lambda d: d["answers"][0]["record"]["timing"].update(chunk_ns=[9, 1]),
        lambda d: d["session"].update(created_at="2026-01-01T00:00:00"),
        lambda d: d["session"]["plan"].update(title="x" * 5000),
        lambda d: d["votes"][0].update(took_s=float("inf")),
        lambda d: d["participants"][0].update(id="<img src=x>"),
        lambda d: d["participants"][0].update(seat=10**12),
        lambda d: d["votes"][0].update(item=999),
        lambda d: d["votes"][0].update(order=[0, 0]),
        lambda d: d["votes"][0].update(shown=[0]),
        lambda d: d["votes"][0].update(participant_id="nobody"),
        lambda d: d["votes"].append(d["votes"][0]),
        lambda d: d["participants"][0].update(seat=1),
        lambda d: d["participants"][0].update(session_id="another"),
        lambda d: d.update(schema_version=2),
        lambda d: d.pop("session"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(change):
    document = json.loads(session_json(record(), names=False))
    change(document)
    with pytest.raises(InputError):
        imported(document)


def test_what_is_no_session_is_refused():
    for data in (b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"session": "'):
        with pytest.raises(InputError, match="isn't the JSON file of a session"):
            imported(data)


def test_the_report_tells_the_results_and_runs_nothing_of_what_it_shows():
    given = record("a", EVIL, prompts=12)
    changed = replace(given.session.plan, title=EVIL, purpose=f"Why? {EVIL}")
    judged = Judgement(judge=EVIL, item=0, turned=False, verdict=Verdict.TIE, given_at=datetime.now(UTC))
    given = replace(given, session=replace(given.session, plan=changed), judgements=(judged,))
    page = session_html(given, {"a": "#111111", EVIL: "#222222"})
    body = page[page.index("<body>") :]
    assert "a is preferred to all others." in body
    assert EVIL not in body
    assert "&lt;script&gt;alert(1)" in body
    assert "2 people" in body
    assert "Ada" not in body


def test_the_report_of_a_session_without_votes():
    page = session_html(replace(record(), votes=()), {"alpha": "#111111", "beta": "#222222"})
    assert "Undecided" in page
