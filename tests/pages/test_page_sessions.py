"""The sessions pages over a real store; jobs are stand-ins, answers are there already."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from core.access import guard
from core.access.identity import GUEST
from core.domain.sessions import Display, Session, SessionState, Verdict, VotingMode
from core.errors import StoreError
from core.images.store import ImageStore
from core.jobs.registry import JobFolder, JobRecord, JobSpec, JobState
from core.sessions import job
from core.sessions.exports import session_json
from core.settings import Settings
from core.store.sessions import Sessions, Votes
from core.ui.sessions import hosting, list_page, vote
from core.ui.shared import resources
from tests.unit.sessions.session_samples import answers, open_session, plan

LANES = ("alpha", "beta")


@pytest.fixture
def room(world, monkeypatch, tmp_path):
    """Store and settings of a dashboard, and the jobs that its pages asked for."""
    home = tmp_path / "home"
    settings = Settings(
        home=home, lanes_file=tmp_path / "lanes.toml", database_url=f"sqlite:///{home / 'lmdyno.db'}"
    )
    things = SimpleNamespace(
        settings=settings,
        sessions=Sessions(settings.database_url),
        votes=Votes(settings.database_url),
        images=ImageStore(settings.images_dir),
        started=[],
    )

    def start(_settings, session):
        things.started.append(session.id)
        return "job"

    monkeypatch.setattr(resources, "sessions", lambda: things.sessions)
    monkeypatch.setattr(resources, "votes", lambda: things.votes)
    monkeypatch.setattr(resources, "image_store", lambda: things.images)
    monkeypatch.setattr(resources, "resources", lambda: SimpleNamespace(settings=settings))
    monkeypatch.setattr(list_page, "start_answers", start)
    monkeypatch.setattr(hosting, "start_answers", start)
    monkeypatch.setattr(vote, "_LEAST_VIEW_S", 0.0)
    yield things
    things.sessions.close()
    things.votes.close()


@pytest.fixture
def host(room, new_app):
    def open_page(**query):
        app = new_app(**query)
        app.switch_page("pages/sessions.py")
        app.run()
        assert not app.exception
        return app

    return open_page


@pytest.fixture
def voter(room, new_app):
    def open_link(session, **query):
        app = new_app(page=None, session=session.link, **query).run()
        assert not app.exception
        return app

    return open_link


def keep(room, of=None, **changes) -> Session:
    session = room.sessions.create(open_session(of or plan(*LANES, prompts=10), **changes))
    room.sessions.save_answers(session.id, answers(session.plan))
    return session


def texts(app) -> str:
    parts = [element.value for element in (*app.markdown, *app.caption, *app.info, *app.success, *app.error)]
    return "\n".join(str(part) for part in parts)


def click(app, label):
    found = [button for button in app.button if button.label == label]
    assert found, f"{label} is not among {[button.label for button in app.button]}"
    found[0].click().run()
    assert not app.exception
    return app


def join(app, name="Ada"):
    app.text_input(key="join_name").set_value(name)
    return click(app, "Join")


class TestVoting:
    def test_a_link_that_leads_nowhere_says_so(self, room, new_app):
        app = new_app(page=None, session="wrong").run()
        assert "There is no such session" in app.title[0].value

    def test_a_name_then_the_first_item(self, room, voter):
        session = keep(room)
        app = join(voter(session))
        assert room.votes.participants(session.id)[0].name == "Ada"
        assert app.query_params["seat"] == room.votes.participants(session.id)[0].code
        assert "Prompt" in texts(app)
        assert [b.label for b in app.button][:5] == ["A is better", "Tie", "B is better", "Both bad", "Skip"]

    def test_nothing_tells_the_lanes(self, room, voter):
        session = keep(room, plan("veiled-one", "veiled-two", prompts=10))
        app = join(voter(session))
        for _vote in range(10):
            sent = str(app.main) + str(app.sidebar) + str(dict(app.query_params))
            assert "veiled" not in sent
            assert "tok/s" not in sent
            click(app, "A is better")
        assert len(room.votes.votes(session.id)) == 10

    def test_the_sidebar_is_empty_and_there_is_no_way_out(self, room, voter):
        app = join(voter(keep(room)))
        assert not app.sidebar.children

    @pytest.mark.parametrize(
        ("label", "verdict", "best"),
        [
            ("A is better", Verdict.PREFERRED, 0),
            ("B is better", Verdict.PREFERRED, 1),
            ("Tie", Verdict.TIE, None),
            ("Both bad", Verdict.ALL_BAD, None),
            ("Skip", Verdict.SKIPPED, None),
        ],
    )
    def test_a_vote_is_stored_when_it_is_given(self, room, voter, label, verdict, best):
        session = keep(room)
        click(join(voter(session)), label)
        (vote,) = room.votes.votes(session.id)
        assert vote.verdict is verdict
        assert vote.order[:1] == (() if best is None else (vote.shown[best],))
        assert vote.took_s >= 0

    def test_reasons_and_a_comment_go_along(self, room, voter):
        session = keep(room)
        app = join(voter(session))
        app.pills(key="ballot_reasons_0").set_value(["correct", "clear"])
        app.text_area(key="ballot_comment_0").set_value(" Well said ")
        click(app, "B is better")
        (vote,) = room.votes.votes(session.id)
        assert (vote.reasons, vote.comment) == (("correct", "clear"), "Well said")

    def test_undo_brings_the_item_back(self, room, voter):
        session = keep(room)
        app = join(voter(session))
        first = texts(app)
        click(click(app, "Tie"), "Undo")
        assert room.votes.votes(session.id) == ()
        assert texts(app) == first
        click(app, "A is better")
        assert len(room.votes.votes(session.id)) == 1

    def test_a_click_right_after_the_item_came_is_a_double_click(self, room, voter, monkeypatch):
        session = keep(room)
        app = join(voter(session))
        monkeypatch.setattr(vote, "_LEAST_VIEW_S", 60.0)
        click(app, "A is better")
        assert room.votes.votes(session.id) == ()

    def test_another_device_goes_on_where_the_first_was(self, room, voter):
        session = keep(room)
        click(click(join(voter(session)), "Tie"), "Tie")
        code = room.votes.participants(session.id)[0].code
        again = voter(session)
        again.text_input(key="join_code").set_value(code.upper())
        click(again, "Continue")
        assert again.query_params["seat"] == code
        reloaded = voter(session, seat=code)
        click(reloaded, "Tie")
        assert len(room.votes.votes(session.id)) == 3
        assert len(room.votes.participants(session.id)) == 1

    def test_a_taken_name_and_a_wrong_code_are_refused(self, room, voter):
        session = keep(room)
        join(voter(session))
        app = join(voter(session), "ada")
        assert '"ada" is already taken' in texts(app)
        app.text_input(key="join_code").set_value("wrong")
        assert "No participant of this session" in texts(click(app, "Continue"))

    def test_only_who_is_invited(self, room, voter):
        session = keep(room, plan(*LANES, prompts=10, invited=("Ada L.",)))
        assert "not on its list" in texts(join(voter(session), "Bo"))
        join(voter(session), "ada  l.")
        assert [person.name for person in room.votes.participants(session.id)] == ["ada l."]

    def test_a_ranking_takes_a_click_for_each_answer_but_the_last(self, room, voter):
        session = keep(room, plan("a", "b", "c", prompts=8, mode=VotingMode.RANKING))
        app = join(voter(session))
        click(app, "B")
        assert room.votes.votes(session.id) == ()
        click(app, "A")
        (vote,) = room.votes.votes(session.id)
        assert vote.order == tuple(vote.shown[position] for position in (1, 0, 2))
        assert "A" in [button.label for button in app.button]

    def test_a_ranking_that_could_not_be_kept_is_completed_by_another_click(self, room, voter, monkeypatch):
        session = keep(room, plan("a", "b", "c", prompts=8, mode=VotingMode.RANKING))
        app = join(voter(session))
        click(app, "B")
        keep_vote = room.votes.vote

        def fail(*_args):
            raise StoreError("The database is locked")

        monkeypatch.setattr(room.votes, "vote", fail)
        click(app, "A")
        assert "The database is locked" in app.toast[0].value
        monkeypatch.setattr(room.votes, "vote", keep_vote)
        click(app, "C")
        (vote,) = room.votes.votes(session.id)
        assert vote.order == tuple(vote.shown[position] for position in (1, 0, 2))

    def test_replayed_answers_come_whole(self, room, voter):
        session = keep(room, plan(*LANES, prompts=10, display=Display.REPLAYED, replay_chars_per_s=2000))
        app = join(voter(session))
        assert texts(app).count("Answer") == 2

    def test_after_the_last_vote_come_second_looks_with_lanes_and_figures(self, room, voter):
        session = keep(room, plan(*LANES, prompts=10, deploy_votes=2))
        app = join(voter(session))
        for _vote in range(10):
            assert "tok/s" not in texts(app)
            click(app, "A is better")
        assert "which would you deploy" in texts(app)
        assert "50.0 tok/s" in texts(app)
        for _vote in range(2):
            click(app, next(b.label for b in app.button if b.label.startswith("A · ")))
        assert "Thank you for voting" in texts(app)
        assert sum(vote.deploy is not None for vote in room.votes.votes(session.id)) == 2

    def test_results_are_hidden_until_the_end(self, room, voter):
        session = keep(room)
        app = join(voter(session))
        for _vote in range(10):
            click(app, "A is better")
        assert "when the session is closed" in texts(app)
        assert "Rating" not in texts(app)
        room.sessions.close_voting(session.id)
        app.run()
        assert "Voting has ended" in texts(app)
        assert "alpha" in texts(app)

    def test_results_at_once_if_the_host_wants_that(self, room, voter):
        session = keep(room, plan(*LANES, prompts=10, results_hidden=False))
        app = join(voter(session))
        for _vote in range(10):
            click(app, "A is better")
        assert "How far to trust this" in texts(app)

    def test_a_draft_makes_people_wait(self, room, voter):
        session = keep(room, state=SessionState.DRAFT)
        assert "has not started" in texts(voter(session))

    def test_a_vote_after_the_end_is_refused_and_said(self, room, voter):
        session = keep(room)
        app = join(voter(session))
        room.sessions.close_voting(session.id)
        click(app, "A is better")
        assert room.votes.votes(session.id) == ()
        assert "is not taking votes" in app.toast[0].value


class TestGuests:
    @pytest.fixture
    def visit(self, room, new_app):
        """Opens an address of a dashboard with a login, without having logged in."""

        def open_address(**query):
            app = new_app(**query)
            app.secrets["auth"] = {"redirect_uri": "http://localhost:8501/oauth2callback"}
            app.user["is_logged_in"] = False
            app.run()
            assert not app.exception
            return app

        return open_address

    def test_the_link_asks_them_for_a_nickname(self, room, visit):
        session = keep(room, plan(*LANES, prompts=10, guests=True))
        app = visit(session=session.link)
        assert app.text_input(key="join_name").label == "Your name or a nickname"
        assert not app.sidebar.children

    def test_elsewhere_they_have_to_log_in(self, room, visit):
        session = keep(room, plan(*LANES, prompts=10, guests=True))
        assert "Log in to see this dashboard" in texts(visit())
        assert "Log in to see this dashboard" in texts(visit(session="another"))
        app = visit(session=session.link)
        del app.query_params["session"]
        app.run()
        assert "Log in to see this dashboard" in texts(app)

    def test_no_other_page_is_theirs(self, room, visit):
        session = keep(room, plan(*LANES, prompts=10, guests=True))
        app = visit(session=session.link)
        with pytest.raises(ValueError, match=r"Known pages: \['[^']*vote.py'\]"):
            app.switch_page("pages/sessions.py")

    def test_a_session_without_guests_asks_for_the_login(self, room, visit):
        session = keep(room)
        app = visit(session=session.link)
        assert "Log in to see this dashboard" in texts(app)
        assert not app.text_input

    def test_a_guest_may_do_nothing_but_vote(self):
        with guard.acting_as(GUEST):
            allowed = [action for action in guard.Action if guard.may(action)]
            assert not guard.may_see(None, by_link=True)
        assert allowed == [guard.Action.VOTE]

    def test_hosts_are_asked_only_where_there_is_a_login(self, host):
        app = click(host(), "New session")
        assert not [toggle for toggle in app.toggle if toggle.key == "new_guests"]


class TestHosting:
    def test_an_empty_list_says_what_to_do(self, host):
        assert "There are no sessions yet" in texts(host())

    def test_a_session_is_made_from_the_form(self, room, host):
        app = click(host(), "New session")
        app.text_input(key="new_title").set_value("Which one?")
        app.pills(key="new_lanes").set_value(["hf", "remote"])
        click(app, "Generate answers")
        (summary,) = room.sessions.summaries()
        session = room.sessions.session(summary.id)
        assert [lane.name for lane in session.plan.lanes] == ["hf", "remote"]
        assert len(session.plan.prompts.prompts) == 42
        assert (session.state, room.started) == (SessionState.DRAFT, [session.id])
        assert app.query_params["id"] == session.id
        assert "Which one?" in texts(app)

    def test_answers_that_can_not_be_begun_leave_one_session_to_resume(self, room, host, monkeypatch):
        def refuse(_settings, _session):
            raise StoreError("The disk is full.", hint="Free some space.")

        monkeypatch.setattr(list_page, "start_answers", refuse)
        app = click(host(), "New session")
        app.text_input(key="new_title").set_value("Which one?")
        app.pills(key="new_lanes").set_value(["hf", "remote"])
        click(app, "Generate answers")
        (summary,) = room.sessions.summaries()
        assert app.query_params["id"] == summary.id
        assert "The disk is full." in app.error[0].value
        click(app, "Resume")
        assert room.started == [summary.id]

    def test_what_is_missing_is_said(self, room, host):
        app = click(click(host(), "New session"), "Generate answers")
        assert "no title" in texts(app)
        app.text_input(key="new_title").set_value("Which one?")
        click(app, "Generate answers")
        assert "0 lanes are selected" in texts(app)
        assert room.sessions.summaries() == ()

    def test_pasted_prompts_are_a_set_that_is_kept(self, room, host):
        app = click(host(), "New session")
        app.text_input(key="new_title").set_value("Mine")
        app.pills(key="new_lanes").set_value(["hf", "remote"])
        app.selectbox(key="new_prompts_english").set_value("pasted").run()
        app.text_area(key="set_lines").set_value("Why?\n为什么？").run()
        click(app, "Generate answers")
        (kept,) = room.sessions.prompt_sets()
        assert [(prompt.text, prompt.language) for prompt in kept.prompts] == [
            ("Why?", ""),
            ("为什么？", "zh"),
        ]

    def test_answers_are_seen_as_they_come_and_voting_is_opened(self, room, host):
        session = room.sessions.create(Session(plan=plan(*LANES, prompts=5)))
        room.sessions.save_answers(session.id, answers(session.plan)[:8])
        app = host(id=session.id)
        assert "8 items" not in texts(app)
        assert "2 answers are missing" in texts(app)
        click(app, "Open voting")
        opened = room.sessions.session(session.id)
        assert (opened.state, len(opened.items)) == (SessionState.OPEN, 4)
        click(host(id=session.id), "Close voting")
        assert room.sessions.session(session.id).state is SessionState.CLOSED

    def test_nothing_to_vote_on_can_t_be_opened(self, room, host):
        session = room.sessions.create(Session(plan=plan(*LANES, prompts=5)))
        app = host(id=session.id)
        assert next(button for button in app.button if button.label == "Open voting").disabled
        click(app, "Resume")
        assert room.started == [session.id]

    def test_a_running_job_is_shown_with_its_progress(self, room, host):
        session = room.sessions.create(Session(plan=plan(*LANES, prompts=5)))
        spec = JobSpec(
            id="job1",
            kind=job.ANSWERS_KIND,
            title="Answers",
            worker="x",
            arguments={"session": session.id},
            python="x",
        )
        folder = JobFolder(room.settings.home / "jobs" / spec.id)
        folder.create(spec)
        folder.write(JobRecord(state=JobState.DONE, stage="done"))
        assert "done" in texts(host(id=session.id))

    def test_the_link_and_who_takes_part(self, room, host, voter):
        session = keep(room)
        click(join(voter(session)), "Tie")
        app = host(id=session.id)
        assert any(session.link in code.value for code in app.code)
        assert "works on this machine only" in app.warning[0].value

    def test_results_while_people_vote(self, room, host, voter):
        session = keep(room, plan(*LANES, prompts=10, results_hidden=True))
        app = join(voter(session))
        for _vote in range(10):
            click(app, "A is better")
        room.sessions.close_voting(session.id)
        page = host(id=session.id)
        assert "How far to trust this" in texts(page)
        assert "Undecided" in texts(page)
        assert "Left or right" in texts(page)

    def test_the_screen_for_the_room_has_no_sidebar_and_no_hidden_results(self, room, host, voter):
        session = keep(room)
        click(join(voter(session)), "A is better")
        app = host(id=session.id, present="1")
        assert not app.sidebar.children
        assert "1 person" in texts(app)
        assert "alpha" not in texts(app)
        room.sessions.close_voting(session.id)
        assert "Undecided" in texts(host(id=session.id, present="1"))

    def test_a_kiosk_shows_the_newest_session_that_was_opened(self, room, voter, new_app):
        empty = new_app(page=None, present="1", view="session").run()
        assert "No session has been opened yet." in texts(empty)
        session = keep(room)
        click(join(voter(session)), "A is better")
        app = new_app(page=None, present="1", view="session").run()
        assert not app.exception
        assert f"# {session.plan.title}" in texts(app)
        assert "1 person" in texts(app)

    def test_a_session_that_is_gone(self, host):
        app = host(id="nope")
        assert "There is no session nope" in texts(app)
        click(app, "All sessions")
        assert "There are no sessions yet" in texts(app)

    def test_an_exported_session_comes_back(self, room, host, voter):
        session = keep(room)
        click(join(voter(session)), "A is better")
        record = room.sessions.record(session.id)
        room.sessions.delete(session.id)
        app = host()
        app.file_uploader[0].upload("session.json", session_json(record, names=False), "application/json")
        click(app, "Import")
        found = room.sessions.record(session.id)
        assert (found.session.state, found.session.imported) == (SessionState.CLOSED, True)
        assert replace(found.votes[0]) == record.votes[0]
        assert found.participants[0].name == "P1"

    def test_a_file_that_is_no_session_is_refused(self, room, host):
        app = host()
        app.file_uploader[0].upload("x.json", b"{}", "application/json")
        assert "isn't the JSON file of a session" in texts(click(app, "Import"))

    def test_deleting(self, room, host):
        session = keep(room, state=SessionState.CLOSED)
        app = host(id=session.id)
        app.session_state[f"session_tabs_{session.id}_closed"] = "Files"
        app.run()
        click(app, "Delete permanently")
        assert room.sessions.summaries() == ()
        assert not app.error
        assert "There are no sessions yet" in texts(app)
