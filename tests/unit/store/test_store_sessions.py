"""Sessions, participants and votes in both databases."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.access.guard import acting_as
from core.access.identity import NOBODY, Identity, Role, Visibility
from core.domain.sessions import (
    Candidate,
    Judgement,
    Participant,
    Session,
    SessionItem,
    SessionRecord,
    SessionState,
    Verdict,
    Vote,
)
from core.domain.turns import Machine
from core.errors import AccessDenied, InputError, StoreError
from core.sessions.items import pasted_prompts, prompt_set
from core.store.sessions import Sessions, Votes
from tests.unit.sessions.session_samples import answer, answers, open_session, plan


@pytest.fixture
def sessions(database_url: str) -> Iterator[Sessions]:
    store = Sessions(database_url)
    yield store
    store.close()


@pytest.fixture
def votes(database_url: str) -> Iterator[Votes]:
    store = Votes(database_url)
    yield store
    store.close()


@pytest.fixture
def session(sessions: Sessions) -> Session:
    return sessions.create(open_session(plan()))


def vote(person: Participant, item: int, **changes) -> Vote:
    return Vote(
        **{
            "participant_id": person.id,
            "item": item,
            "shown": (1, 0),
            "verdict": Verdict.PREFERRED,
            "order": (0, 1),
        }
        | changes
    )


def test_a_session_is_read_as_it_was_written(sessions: Sessions) -> None:
    made = sessions.create(Session(plan=plan("alpha", "beta", "gamma"), owner="ada@example.org"))
    assert sessions.session(made.id) == made
    assert sessions.session_of_link(made.link) == made
    assert sessions.session_of_link("") is None


def test_links_differ_and_can_t_be_guessed(sessions: Sessions) -> None:
    links = {sessions.create(Session(plan=plan())).link for _ in range(3)}
    assert len(links) == 3
    assert min(map(len, links)) >= 16


def test_an_unknown_session(sessions: Sessions) -> None:
    with pytest.raises(StoreError) as raised:
        sessions.session("nope")
    assert raised.value.code == "no-such-session"


def test_answers_are_kept_once_for_each_prompt_lane_and_sample(sessions: Sessions, session: Session) -> None:
    sessions.save_answers(session.id, answers(session.plan))
    sessions.save_answers(session.id, [answer(0, 1, text="anew"), answer(0, 1, 1, text="second")])
    assert len(sessions.answers(session.id)) == 14 * 2 + 1
    found = sessions.answers_to(session.id, 0, (Candidate(1), Candidate(0), Candidate(1, 1)))
    assert [each.record.text for each in found] == ["anew", "Answer 0.0.0", "second"]
    assert (0, 1, 1) in sessions.answer_keys(session.id)
    with pytest.raises(StoreError):
        sessions.answers_to(session.id, 99, (Candidate(0),))


def test_opening_fixes_the_items_for_good(sessions: Sessions) -> None:
    draft = sessions.create(Session(plan=plan()))
    items = (SessionItem(prompt=0, candidates=(Candidate(0), Candidate(1))),)
    sessions.open_voting(draft.id, items, identical_pairs=3)
    sessions.close_voting(draft.id)
    sessions.open_voting(draft.id, (), identical_pairs=0)
    found = sessions.session(draft.id)
    assert (found.items, found.identical_pairs, found.state) == (items, 3, SessionState.OPEN)
    assert found.closed_at is None


def test_the_machine_is_kept(sessions: Sessions, session: Session) -> None:
    machine = Machine(host="lab", platform="Linux", python="3.11")
    sessions.set_machine(session.id, machine)
    assert sessions.session(session.id).machine == machine


def test_people_get_seats_in_the_order_of_joining(votes: Votes, session: Session) -> None:
    people = [votes.join(session.id, name) for name in ("Ada", "Bo", "Cy")]
    assert [person.seat for person in people] == [0, 1, 2]
    assert votes.participants(session.id) == tuple(people)
    assert votes.participant(session.id, people[1].code.upper()) == people[1]
    assert votes.participant(session.id, "wrong") is None
    assert votes.participant("elsewhere", people[1].code) is None


@pytest.mark.parametrize("name", ["Ada", "  ada ", "ADA", "Ａｄａ"])
def test_a_name_that_looks_like_another_is_refused(votes: Votes, session: Session, name: str) -> None:
    votes.join(session.id, "Ada")
    with pytest.raises(InputError) as raised:
        votes.join(session.id, name)
    assert raised.value.code == "name-taken"


def test_who_is_signed_in_gets_the_same_seat_anywhere(votes: Votes, session: Session) -> None:
    votes.join(session.id, "Ada")
    first = votes.join(session.id, "Ada", user="ada@example.org")
    assert first.name == "Ada 2"
    assert votes.join(session.id, "Ada L.", user="ada@example.org") == first


def test_people_who_join_at_once_get_different_seats(votes: Votes, session: Session) -> None:
    threads = [
        threading.Thread(target=votes.join, args=(session.id, f"Person {number}")) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(person.seat for person in votes.participants(session.id)) == list(range(8))


def test_a_vote_is_read_as_it_was_given(votes: Votes, session: Session) -> None:
    ada = votes.join(session.id, "Ada")
    given = vote(ada, 3, reasons=("correct", "clear"), comment="Nice \x00 one", took_s=4.5)
    assert votes.vote(session.id, given)
    (found,) = votes.votes_of(ada.id)
    assert replace(found, comment="") == replace(given, comment="")
    assert found.comment.startswith("Nice ")
    assert votes.votes(session.id) == (found,)


def test_two_votes_of_one_person_on_one_item_count_once(votes: Votes, session: Session) -> None:
    ada, bo = votes.join(session.id, "Ada"), votes.join(session.id, "Bo")
    assert votes.vote(session.id, vote(ada, 3))
    assert not votes.vote(session.id, vote(ada, 3, verdict=Verdict.TIE, order=()))
    assert votes.vote(session.id, vote(bo, 3))
    assert [each.verdict for each in votes.votes(session.id)] == [Verdict.PREFERRED] * 2


def test_simultaneous_clicks_make_one_vote(votes: Votes, session: Session) -> None:
    ada = votes.join(session.id, "Ada")
    stored: list[bool] = []
    threads = [
        threading.Thread(target=lambda: stored.append(votes.vote(session.id, vote(ada, 3)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stored) == [False] * 7 + [True]


def test_undo_takes_back_the_newest_vote_of_that_person(votes: Votes, session: Session) -> None:
    ada, bo = votes.join(session.id, "Ada"), votes.join(session.id, "Bo")
    for person, item in ((ada, 1), (ada, 2), (bo, 2)):
        votes.vote(session.id, vote(person, item))
    undone = votes.undo(ada.id)
    assert undone is not None
    assert undone.item == 2
    assert [each.item for each in votes.votes_of(ada.id)] == [1]
    assert len(votes.votes(session.id)) == 2
    votes.undo(ada.id)
    assert votes.undo(ada.id) is None


def test_before_and_after_voting_nobody_joins_votes_or_undoes(
    sessions: Sessions, votes: Votes, session: Session
) -> None:
    ada = votes.join(session.id, "Ada")
    votes.vote(session.id, vote(ada, 1))
    sessions.close_voting(session.id)
    for attempt in (
        lambda: votes.join(session.id, "Bo"),
        lambda: votes.vote(session.id, vote(ada, 2)),
        lambda: votes.undo(ada.id),
    ):
        with pytest.raises(InputError) as raised:
            attempt()
        assert raised.value.code == "session-not-open"
    assert len(votes.votes(session.id)) == 1


def test_the_second_vote_stands_beside_the_first(votes: Votes, session: Session) -> None:
    ada = votes.join(session.id, "Ada")
    votes.vote(session.id, vote(ada, 1))
    votes.deploy(ada.id, 1, Verdict.PREFERRED, (1, 0))
    votes.deploy(ada.id, 1, Verdict.TIE, ())
    (found,) = votes.votes(session.id)
    assert (found.order, found.deploy, found.deploy_order) == ((0, 1), Verdict.PREFERRED, (1, 0))


def test_the_turnout_changes_with_every_vote(votes: Votes, session: Session) -> None:
    seen = [votes.turnout(session.id)]
    ada = votes.join(session.id, "Ada")
    seen.append(votes.turnout(session.id))
    votes.vote(session.id, vote(ada, 1))
    seen.append(votes.turnout(session.id))
    votes.deploy(ada.id, 1, Verdict.TIE, ())
    seen.append(votes.turnout(session.id))
    votes.undo(ada.id)
    seen.append(votes.turnout(session.id))
    assert len(set(seen)) == 4
    assert seen[1] == seen[4]
    assert (seen[3].participants, seen[3].votes, seen[3].deploy_votes) == (1, 1, 1)


def test_the_list_counts_people_and_votes(sessions: Sessions, votes: Votes, session: Session) -> None:
    ada = votes.join(session.id, "Ada")
    votes.vote(session.id, vote(ada, 1))
    votes.vote(session.id, vote(ada, 2, verdict=Verdict.SKIPPED, order=()))
    sessions.create(Session(plan=plan()))
    newest, oldest = sessions.summaries()
    assert (newest.participants, newest.votes, newest.state) == (0, 0, SessionState.DRAFT)
    assert (oldest.participants, oldest.votes, oldest.title) == (1, 1, "Which lane?")


def test_a_deleted_session_leaves_nothing(sessions: Sessions, votes: Votes, session: Session) -> None:
    ada = votes.join(session.id, "Ada")
    votes.vote(session.id, vote(ada, 1))
    sessions.save_answers(session.id, [answer(0, 0)])
    sessions.delete(session.id)
    assert sessions.summaries() == ()
    assert sessions.answers(session.id) == ()
    assert votes.votes_of(ada.id) == ()


def test_judgements_are_kept_once_for_each_order(sessions: Sessions, session: Session) -> None:
    first = Judgement(judge="judge", item=0, turned=False, verdict=None, text="?")
    other = Judgement(judge="judge", item=0, turned=True, verdict=Verdict.TIE)
    sessions.save_judgements(session.id, [first, other])
    again = replace(first, verdict=Verdict.PREFERRED, order=(1, 0))
    sessions.save_judgements(session.id, [again])
    assert sessions.judgements(session.id) == (again, other)


def test_a_whole_session_moves_to_another_database(
    sessions: Sessions, votes: Votes, session: Session, tmp_path
) -> None:
    ada = votes.join(session.id, "Ada")
    votes.vote(session.id, vote(ada, 1))
    sessions.save_answers(session.id, answers(session.plan))
    sessions.save_judgements(session.id, [Judgement(judge="j", item=0, turned=True, verdict=Verdict.TIE)])
    record = sessions.record(session.id)
    elsewhere = Sessions(f"sqlite:///{tmp_path / 'other.db'}")
    added = elsewhere.add(record)
    assert added.link != session.link
    found = elsewhere.record(session.id)
    (person,) = found.participants
    assert person.code not in ("", ada.code)
    assert replace(found, session=session, participants=(replace(person, code=ada.code),)) == record
    assert isinstance(found, SessionRecord)
    with pytest.raises(StoreError) as raised:
        elsewhere.add(record)
    assert raised.value.code == "session-exists"
    elsewhere.close()


def test_versions_of_a_prompt_set_are_kept_once(sessions: Sessions) -> None:
    one = prompt_set("mine", pasted_prompts("A\nB"))
    two = prompt_set("mine", pasted_prompts("A\nC"))
    for prompts in (one, two, prompt_set("mine", pasted_prompts("A\nB"))):
        sessions.save_prompt_set(prompts)
    assert sessions.prompt_sets() == (two, one)


OPERATOR = Identity(id="ada@example.com", name="Ada", role=Role.OPERATOR, login="a")
VIEWER = Identity(id="bob@example.com", name="Bob", role=Role.VIEWER, login="b", sees=Visibility.PRIVATE)


def test_viewers_change_no_session_whichever_way_they_ask(sessions):
    with acting_as(OPERATOR):
        session = sessions.create(open_session(plan(), state=SessionState.DRAFT))
    assert session.owner == OPERATOR.id
    changes = (
        lambda: sessions.create(open_session(plan())),
        lambda: sessions.save_prompt_set(session.plan.prompts),
        lambda: sessions.add(SessionRecord(session=open_session(plan()))),
        lambda: sessions.change_plan(session.id, session.plan),
        lambda: sessions.open_voting(session.id, session.items, identical_pairs=0),
        lambda: sessions.close_voting(session.id),
        lambda: sessions.delete(session.id),
    )
    with acting_as(replace(VIEWER, sees=Visibility.LINK)):
        for change in changes:
            with pytest.raises(AccessDenied):
                change()
    with acting_as(OPERATOR):
        assert sessions.session(session.id) == session


def test_private_sessions_are_shown_to_their_owners_and_operators(sessions):
    with acting_as(OPERATOR):
        session = sessions.create(open_session(plan()))
    with acting_as(VIEWER):
        assert sessions.summaries() == ()
        with pytest.raises(StoreError) as caught:
            sessions.record(session.id)
        assert sessions.session_of_link(session.link) == session
    assert caught.value.code == "no-such-session"
    with acting_as(replace(VIEWER, sees=Visibility.LINK)):
        assert sessions.summaries() == ()
        assert sessions.session(session.id) == session


def test_nobody_votes_without_a_role(sessions, votes):
    session = sessions.create(open_session(plan()))
    with acting_as(NOBODY):
        with pytest.raises(AccessDenied):
            votes.join(session.id, "Eve")
        with pytest.raises(AccessDenied):
            votes.undo("p0")
