"""The link with a real meter process, a real store, and the scripted server."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from core.codec import decode, encode
from core.domain.turns import FinishReason, Mode, Phase
from core.errors import EngineCrashed, InputError
from core.meter.link import MeterLink
from core.meter.protocol import Command, Reply, Verb
from core.settings import Settings
from core.store.turns import Store
from tests.unit.meter.meter_samples import model, remote_lane, turn_plan

HERE = Path(__file__).parent
FAKE_METER = (sys.executable, str(HERE / "fake_meter.py"))
SLOW = {"chunks": 200, "interval_s": 0.05}


def settings_of(home):
    return Settings(home=home, lanes_file=home / "lanes.toml", database_url=f"sqlite:///{home / 'test.db'}")


@pytest.fixture
def settings(tmp_path):
    return settings_of(tmp_path)


@contextmanager
def linked(settings, *arguments):
    link = MeterLink(settings, command=(*FAKE_METER, *arguments))
    try:
        yield link
    finally:
        link.close()


@pytest.fixture
def link(settings):
    with linked(settings) as link:
        yield link


@pytest.fixture(scope="module")
def shared_settings(tmp_path_factory):
    """A home with a store, which the meter's processes would take a while to create."""
    settings = settings_of(tmp_path_factory.mktemp("meter"))
    with closing(Store(settings.database_url)) as store:
        store.open()
    return settings


@pytest.fixture(scope="module")
def shared_link(shared_settings):
    """For tests that neither end the meter's process nor look at the beginning of its life."""
    with linked(shared_settings) as link:
        yield link


@pytest.fixture(scope="module")
def mortal_link(shared_settings):
    """For tests that kill the meter's process: each leaves the next one a new process."""
    with linked(shared_settings) as link:
        yield link


@pytest.fixture
def store(shared_settings):
    """That of the shared home."""
    with closing(Store(shared_settings.database_url)) as store:
        yield store


def plan_for(server, *scenarios, mode=Mode.ONE_AFTER_ANOTHER):
    """A turn in a conversation of its own."""
    plan = turn_plan(
        *(remote_lane(f"lane{i}", server.url, model(**scenario)) for i, scenario in enumerate(scenarios)),
        mode=mode,
    )
    return replace(plan, conversation_id=f"of {plan.id}")


def followed(link, plan, place=0):
    """All updates of one request to its end."""
    return [update for update in link.follow(plan.id, plan.requests[place].id) if update]


def text_of(updates):
    return "".join(update.content for update in updates)


def wait_for(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def first_text(link, plan):
    """Follow until some text came, then go away."""
    text = ""
    for update in link.follow(plan.id, plan.requests[0].id):
        text += update.content if update else ""
        if text:
            return text
    return text


def pid_of(link):
    return link._process.popen.pid


def test_a_turn_is_followed_and_recorded(shared_link, server, store):
    plan = plan_for(server, {"text": "one two 你好", "interval_s": 0.03})
    shared_link.start(plan)
    updates = followed(shared_link, plan)
    record = updates[-1].record
    assert text_of(updates) == record.text == "one two 你好"
    assert record.timing.ttft_s is not None
    assert shared_link.turn(plan.id).requests == (record,)
    assert shared_link.conversation("c").store_problem is None
    wait_for(lambda: (turn := store.turn(plan.id)) and turn.done)
    assert store.turn(plan.id).requests == (record,)


def test_following_again_and_twice_at_once_gives_the_whole_text(shared_link, server):
    plan = plan_for(server, {"chunks": 30, "interval_s": 0.03})
    shared_link.start(plan)
    seen = first_text(shared_link, plan)
    texts = []
    threads = [
        threading.Thread(target=lambda: texts.append(text_of(followed(shared_link, plan)))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    whole = text_of(followed(shared_link, plan))
    assert whole.startswith(seen)
    assert len(whole) > len(seen)
    assert texts == [whole, whole]


def test_a_silent_stream_ticks(shared_link, server):
    plan = plan_for(server, {"hang": True})
    shared_link.start(plan)
    ticks = 0
    for update in shared_link.follow(plan.id, plan.requests[0].id, tick_s=0.02):
        ticks += update is None
        if ticks == 5:
            break
    assert ticks == 5


def test_going_away_cancels_nothing_but_cancel_does(shared_link, server):
    plan = plan_for(server, SLOW)
    shared_link.start(plan)
    text = first_text(shared_link, plan)
    time.sleep(0.2)
    assert not shared_link.turn(plan.id).done
    asked_at = time.monotonic()
    shared_link.cancel(plan.id)
    record = followed(shared_link, plan)[-1].record
    assert time.monotonic() - asked_at < 2
    assert record.finish_reason is FinishReason.CANCELLED
    assert record.text.startswith(text)


def test_a_turn_has_ended_when_its_cancelling_returns(shared_link, server):
    plan = plan_for(server, SLOW, {"hang": True}, mode=Mode.TOGETHER)
    shared_link.start(plan)
    first_text(shared_link, plan)
    shared_link.cancel(plan.id)
    assert shared_link.turn(plan.id).done


def test_one_request_is_cancelled_alone(shared_link, server):
    plan = plan_for(server, {"hang": True}, {"chunks": 3}, mode=Mode.TOGETHER)
    shared_link.start(plan)
    assert followed(shared_link, plan, 1)[-1].record.finish_reason is FinishReason.STOP
    shared_link.cancel(plan.id, plan.requests[0].id)
    assert followed(shared_link, plan, 0)[-1].record.finish_reason is FinishReason.CANCELLED


def test_the_same_plan_twice_is_one_turn(shared_link, server):
    plan = plan_for(server, {"chunks": 3})
    shared_link.start(plan)
    shared_link.start(plan)
    followed(shared_link, plan)
    shared_link.start(plan)
    assert len(server.seen) == 1


def test_an_unknown_turn(link, shared_link, server):
    with pytest.raises(InputError) as without_a_process:
        next(link.follow("nobody", "nothing"))
    shared_link.start(plan_for(server, {"chunks": 1}))
    with pytest.raises(InputError) as with_one:
        next(shared_link.follow("nobody", "nothing"))
    assert without_a_process.value.code == with_one.value.code == "unknown-turn"
    assert shared_link.turn("nobody") is None
    shared_link.cancel("nobody")


def test_what_is_written_while_text_arrives_survives_a_kill(mortal_link, server, store):
    plan = plan_for(server, SLOW, SLOW)
    mortal_link.start(plan)
    wait_for(lambda: (turn := store.turn(plan.id)) and turn.requests[0].text)
    follower_ends = []
    thread = threading.Thread(target=lambda: follower_ends.append(followed(mortal_link, plan)[-1]))
    thread.start()
    time.sleep(0.3)
    first_pid = pid_of(mortal_link)
    os.kill(first_pid, signal.SIGKILL)
    thread.join(20)
    assert follower_ends[0].phase is Phase.DONE
    assert follower_ends[0].record.error.code == "meter-died"
    assert follower_ends[0].record.text.startswith("word0 ")
    assert followed(mortal_link, plan, 1)[-1].record.error.code == "meter-died"
    shown = follower_ends[0].record
    assert mortal_link.conversation(plan.conversation_id).lost[0] == shown
    wait_for(lambda: store.turn(plan.id).done and store.turn(plan.id).requests[0].text == shown.text)
    stored = store.turn(plan.id).requests
    assert [record.error.code for record in stored] == ["meter-died"] * 2
    assert stored[0].text.startswith("word0 ")

    again = plan_for(server, {"chunks": 2})
    mortal_link.start(again)
    assert pid_of(mortal_link) != first_pid
    assert followed(mortal_link, again)[-1].record.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("after_pieces", [1, 8, 40])
def test_page_and_store_agree_after_a_kill(mortal_link, server, store, after_pieces):
    """Whoever followed an answer when the meter was killed finds all that was shown in the store."""
    plan = plan_for(server, {"chunks": 4000, "interval_s": 0.005})
    mortal_link.start(plan)
    shown, pieces = "", 0
    for update in mortal_link.follow(plan.id, plan.requests[0].id):
        if update is None:
            continue
        shown += update.content
        pieces += bool(update.content)
        if pieces == after_pieces:
            os.kill(pid_of(mortal_link), signal.SIGKILL)
            pieces += 1
        last = update
    assert last.record.error.code == "meter-died"
    assert len(last.record.text) >= len(shown) > 0
    wait_for(
        lambda: (turn := store.turn(plan.id)) and turn.done and turn.requests[0].text == last.record.text
    )
    (held,) = mortal_link.conversation(plan.conversation_id).lost
    assert held.text == last.record.text


def test_a_turn_that_was_not_stored_when_the_meter_was_killed_is_stored_all_the_same(link, server, settings):
    plan = plan_for(server, SLOW)
    link.start(plan)
    os.kill(pid_of(link), signal.SIGKILL)
    with closing(Store(settings.database_url)) as store:
        wait_for(lambda: link.turn(plan.id) is None and (turn := store.turn(plan.id)) and turn.done)
        assert store.turn(plan.id).prompt == plan.prompt
        assert store.turn(plan.id).requests[0].error.code == "meter-died"


def test_a_conversation_is_held_until_the_store_has_it(shared_link, server, store):
    plan = plan_for(server, SLOW)
    other = plan_for(server, {"chunks": 1})
    for started in (other, plan):
        shared_link.start(started)
    held = shared_link.conversation(plan.conversation_id)
    assert [turn.id for turn in held.turns] == [plan.id]
    assert not held.turns[0].done
    assert held.last_turn_id == plan.id
    shared_link.cancel(plan.id)
    wait_for(lambda: not shared_link.conversation(plan.conversation_id).turns)
    assert store.turn(plan.id).done
    assert shared_link.conversation(plan.conversation_id).last_turn_id == plan.id
    assert shared_link.conversation("unknown").last_turn_id is None


def test_a_dead_meter_never_blocks_a_command(mortal_link, server):
    plan = plan_for(server, SLOW)
    mortal_link.start(plan)
    os.kill(pid_of(mortal_link), signal.SIGKILL)
    wait_for(lambda: mortal_link.turn(plan.id) is None)
    assert mortal_link.conversation("c").store_problem is None
    mortal_link.cancel(plan.id)


def test_closing_cancels_and_records_what_runs(link, server, settings):
    plan = plan_for(server, SLOW, SLOW)
    link.start(plan)
    first_text(link, plan)
    popen, folder = link._process.popen, link._process.folder
    link.close()
    assert popen.returncode == 0
    assert not folder.exists()
    stored = Store(settings.database_url).turn(plan.id)
    assert [record.finish_reason for record in stored.requests] == [FinishReason.CANCELLED] * 2
    assert stored.requests[0].text


def test_the_owners_death_lets_turns_finish_and_be_recorded(server, settings):
    plan = plan_for(server, {"chunks": 20, "interval_s": 0.05})
    owner = f"""
import sys, os
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parents[2])!r}]
from test_meter_link import *
from core.codec import decode
from core.domain.turns import TurnPlan
home = Path({str(settings.home)!r})
settings = Settings(home=home, lanes_file=home / "x", database_url={settings.database_url!r})
link = MeterLink(settings, command=FAKE_METER)
plan = decode(TurnPlan, sys.stdin.buffer.read())
link.start(plan)
first_text(link, plan)
print(pid_of(link), flush=True)
os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", owner], input=encode(plan), capture_output=True, timeout=60)
    assert done.returncode == 9, done.stderr.decode()
    store = Store(settings.database_url)
    wait_for(lambda: (turn := store.turn(plan.id)) and turn.done)
    (record,) = store.turn(plan.id).requests
    assert record.finish_reason is FinishReason.STOP
    assert record.output_tokens == 20
    wait_for(lambda: not is_running(int(done.stdout)))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_store_that_fails_is_told_and_disturbs_nothing(server, settings):
    with linked(settings, "failing-store") as link:
        plan = plan_for(server, {"chunks": 5, "interval_s": 0.02})
        link.start(plan)
        assert followed(link, plan)[-1].record.finish_reason is FinishReason.STOP
        wait_for(lambda: link.conversation("c").store_problem)
        assert [turn.id for turn in link.conversation(plan.conversation_id).turns] == [plan.id]
        assert link.conversation("c").store_problem.code == "store-full"
        assert link.conversation("c").store_problem.hint == "Make room."


def test_a_prepared_process_is_the_one_that_runs_the_turn(link, server):
    link.prepare()
    pid = pid_of(link)
    plan = plan_for(server, {"chunks": 1})
    link.start(plan)
    assert followed(link, plan)[-1].record.finish_reason is FinishReason.STOP
    assert pid_of(link) == pid


def test_a_process_that_does_not_start_is_one_clear_error(server, settings):
    link = MeterLink(settings, command=(sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(EngineCrashed) as caught:
        link.start(plan_for(server, {"chunks": 1}))
    assert caught.value.code == "meter-unavailable"
    link.close()


def test_strangers_are_not_served(shared_link, server):
    plan = plan_for(server, {"chunks": 1})
    shared_link.start(plan)
    process = shared_link._process
    assert process.folder.stat().st_mode & 0o077 == 0
    command = Command(token="guessed", verb=Verb.TURN, turn_id=plan.id)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(10)
        stranger.connect(process.address)
        stranger.sendall(encode(command) + b"\n")
        reply = decode(Reply, stranger.makefile("rb").readline())
    assert reply.turn is None
    assert reply.error.code == "wrong-token"
