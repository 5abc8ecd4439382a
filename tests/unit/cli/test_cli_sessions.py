"""`sessions` from end to end, over a real store."""

import json
import sys
from contextlib import closing

import pytest

from core import __main__ as program
from core.cli import context
from core.domain.sessions import Participant
from core.store.sessions import Sessions, Votes
from tests.unit.sessions.session_samples import answers, lane, open_session, plan, votes_for


@pytest.fixture
def session(settings, monkeypatch):
    """A session of two lanes in which two people always preferred the first one."""

    class Registry:
        lanes = (lane("alpha"), lane("beta"))

    monkeypatch.setattr(context, "load", lambda: (settings, Registry()))
    with closing(Sessions(settings.database_url)) as store, closing(Votes(settings.database_url)) as votes:
        made = store.create(open_session(plan("alpha", "beta", prompts=20)))
        store.save_answers(made.id, answers(made.plan))
        people: list[Participant] = [votes.join(made.id, name) for name in ("Adalind", "Bo")]
        for vote in votes_for(made, best=0, seats=2):
            seat = int(vote.participant_id.removeprefix("p"))
            votes.vote(made.id, type(vote)(**{**as_fields(vote), "participant_id": people[seat].id}))
    return made


def as_fields(vote) -> dict:
    return {name: getattr(vote, name) for name in vote.__dataclass_fields__}


@pytest.fixture
def run(monkeypatch, capsysbinary):
    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["lmdyno", "sessions", *arguments])
        with pytest.raises(SystemExit) as raised:
            program.main()
        captured = capsysbinary.readouterr()
        return int(raised.value.code or 0), (captured.out + captured.err).decode()

    return call


def test_list_and_show(session, run):
    code, listed = run("list", "--json")
    assert code == 0
    assert [(each["id"], each["votes"]) for each in json.loads(listed)] == [(session.id, 40)]
    code, shown = run("show", session.id)
    assert code == 0
    assert "alpha is preferred to all others." in shown


def test_show_as_json(session, run):
    _code, shown = run("show", session.id, "--json")
    document = json.loads(shown)
    assert document["results"]["standings"]["lanes"][0]["rank_high"] == 1
    assert document["figures"][0]["answers"] == 20


@pytest.mark.parametrize(
    ("format_name", "part"),
    [
        ("json", '"schema_version":1'),
        ("csv", "alpha > beta"),
        ("html", "<!doctype html>"),
        ("battles", '"winner":"model_a"'),
        ("comparator", '"individual_rater_scores"'),
    ],
)
def test_export(session, run, tmp_path, format_name, part):
    file = tmp_path / "out"
    code, _said = run("export", session.id, "--format", format_name, "--out", str(file))
    assert code == 0
    text = file.read_text("utf-8-sig")
    assert part in text
    assert "Adalind" not in text


def test_an_exported_session_is_imported(session, run, settings, tmp_path):
    file = tmp_path / "session.json"
    run("export", session.id, "--out", str(file), "--names")
    code, said = run("import", str(file))
    assert (code, "This session already exists." in said) == (1, True)
    with closing(Sessions(settings.database_url)) as store:
        store.delete(session.id)
        assert run("import", str(file)) == (0, f"{session.id}\n")
        assert [person.name for person in store.record(session.id).participants] == ["Adalind", "Bo"]


def test_what_can_t_be_done_is_said(session, run):
    assert run("show", "nope")[0] == 1
    code, said = run("export", session.id, "--format", "comparator", "--lane", "alpha")
    assert (code, "two lanes" in said) == (2, True)


def test_the_schema_is_json(session, run):
    assert json.loads(run("schema")[1])["title"] == "SessionRecord"
